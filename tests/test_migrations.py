from flask_migrate import check, downgrade, upgrade


def test_migrations_build_the_schema_of_the_models(app):
    with app.app_context():
        check(directory="migrations")  # exits if `flask db migrate` would find work to do
        downgrade(directory="migrations", revision="base")
        upgrade(directory="migrations")
        check(directory="migrations")

"""`make bench`: the gateway beside a bare proxy, in one run on one machine."""

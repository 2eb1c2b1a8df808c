#!/usr/bin/env node
// The TypeScript SDK's example simpleStreamableHttp with --oauth: an MCP server, and an authorization
// server on a port of its own that registers everybody, approves everybody, and gives no refresh token.
//   node ts_oauth.mjs --modules=DIR [--with-parent]
// The example takes its ports from the environment and listens on every address; so two free ports on
// loopback are taken first and handed to it. "READY <url>" is printed once both listen.
import { once } from 'node:events';
import { createRequire } from 'node:module';
import net from 'node:net';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const flags = new Map(process.argv.slice(2).map((arg) => arg.split('=', 2)));
const modules = createRequire(join(resolve(flags.get('--modules') ?? '.'), 'here.js'));

const listen = net.Server.prototype.listen;
const held = new Map();
for (const name of ['MCP_PORT', 'MCP_AUTH_PORT']) {
  const holder = net.createServer();
  listen.call(holder, 0, '127.0.0.1');
  await once(holder, 'listening');
  process.env[name] = String(holder.address().port);
  held.set(process.env[name], holder);
}

net.Server.prototype.listen = function listenWhereHeld(port, ...rest) {
  const holder = held.get(String(port));
  held.delete(String(port));
  if (!held.size) this.once('listening', () => console.log(`READY http://localhost:${process.env.MCP_PORT}/mcp`));
  return listen.call(this, holder, ...rest);
};

process.on('SIGTERM', () => process.exit(0));
if (flags.has('--with-parent')) process.stdin.resume().on('end', () => process.exit(0));

process.argv.splice(2, Infinity, '--oauth');
const entry = modules.resolve('@modelcontextprotocol/sdk/examples/server/simpleStreamableHttp.js');
await import(pathToFileURL(entry).href);

#!/usr/bin/env node
// npm @modelcontextprotocol/server-everything as an upstream of the old HTTP+SSE transport.
//   node everything_sse.mjs --modules=DIR [--with-parent]
// It takes PORT from the environment, listens on every address and says nothing on stdout; so its
// listen() is led to a free port on loopback, and "READY <url>" is printed once it listens.
import { createRequire } from 'node:module';
import net from 'node:net';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const flags = new Map(process.argv.slice(2).map((arg) => arg.split('=', 2)));
const modules = createRequire(join(resolve(flags.get('--modules') ?? '.'), 'here.js'));

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function listenOnLoopback(port, ...rest) {
  this.once('listening', () => console.log(`READY http://127.0.0.1:${this.address().port}/sse`));
  return listen.call(this, 0, '127.0.0.1', ...rest);
};

process.on('SIGTERM', () => process.exit(0));
if (flags.has('--with-parent')) process.stdin.resume().on('end', () => process.exit(0));

process.argv[2] = 'sse';
const entry = modules.resolve('@modelcontextprotocol/server-everything/dist/index.js');
await import(pathToFileURL(entry).href);

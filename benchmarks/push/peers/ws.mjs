// Node `ws`: a frame is made once and sent as a buffer; no compression.
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';
import { obey, userOf } from './common.mjs';

const users = new Map();
const http = createServer();
const server = new WebSocketServer({ server: http, perMessageDeflate: false });

server.on('connection', (socket) => {
  socket.once('message', (data) => {
    const user = userOf(JSON.parse(data).token);
    if (!users.has(user)) users.set(user, new Set());
    users.get(user).add(socket);
    socket.on('close', () => users.get(user).delete(socket));
    socket.send('{"op":"welcome"}');
  });
});

let offset = 0;
function deliver(value) {
  const { toUserIds, ...message } = JSON.parse(value);
  const text = Buffer.from(JSON.stringify({ op: 'msg', at: `0:${offset++}`, message }));
  for (const user of toUserIds) {
    for (const socket of users.get(user) ?? []) socket.send(text, { binary: false });
  }
}

http.listen({ port: 0, host: '0.0.0.0', backlog: 65535 }, () => console.log(`port ${http.address().port}`));
await obey(deliver);

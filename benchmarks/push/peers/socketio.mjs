// socket.io over WebSocket alone: a room per user, one `emit` per message, which encodes it once.
import { createServer } from 'node:http';
import { Server } from 'socket.io';
import { obey, userOf } from './common.mjs';

const http = createServer();
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false });

io.on('connection', (socket) => {
  socket.join(userOf(socket.handshake.auth.token));
});

let offset = 0;
function deliver(value) {
  const { toUserIds, ...message } = JSON.parse(value);
  io.to(toUserIds).emit('msg', { at: `0:${offset++}`, message });
}

http.listen({ port: 0, host: '0.0.0.0', backlog: 65535 }, () => console.log(`port ${http.address().port}`));
await obey(deliver);

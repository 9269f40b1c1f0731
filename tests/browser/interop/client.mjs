// One session of the push protocol: `node client.mjs URL TOKEN ws|builtin`. Prints what it sees, a JSON object a line.
const [url, token, kind] = process.argv.slice(2)
const WebSocket = kind === 'ws' ? (await import('ws')).WebSocket : globalThis.WebSocket
const say = (seen) => console.log(JSON.stringify(seen))
const socket = new WebSocket(url, ['notifyd.v1'])

socket.addEventListener('open', () => {
  say({ protocol: socket.protocol, extensions: socket.extensions })
  socket.send(JSON.stringify({ op: 'hello', token }))
})
socket.addEventListener('message', ({ data }) => {
  const frame = JSON.parse(data)
  say(frame)
  if (frame.op === 'msg') socket.send(JSON.stringify({ op: 'ack', ids: [frame.message.UUID] }))
  if (frame.op !== 'ok') return
  if (kind !== 'ws') return socket.close(1000, 'bye')
  socket.on('pong', (payload) => {
    say({ pong: payload.toString() })
    socket.close(1000, 'bye')
  })
  socket.ping('here?')
})
socket.addEventListener('error', (event) => say({ error: String(event.message) }))
socket.addEventListener('close', ({ code, wasClean }) => say({ closed: code, clean: wasClean }))

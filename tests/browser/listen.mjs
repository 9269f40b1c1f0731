// A program in Node with our client: prints what it gets and how it stands, one JSON object a line.
//   node listen.mjs CLIENT_MODULE URL TOKEN TRANSPORT
const [module, url, token, transport] = process.argv.slice(2);
const { PushClient } = await import(module);
const print = (entry) => console.log(JSON.stringify(entry));
const client = new PushClient({
  url,
  token: () => token,
  transport,
  onMessage: (message) => print({ title: message.content.title }),
  onStatus: ({ state }) => print({ state }),
  onGap: () => print({ gap: true }),
});
process.on("SIGTERM", () => {
  print({ unconfirmed: client.unconfirmed });
  client.close();
});

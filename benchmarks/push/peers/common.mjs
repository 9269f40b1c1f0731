// What both Node servers share: tokens, commands, and the messages (work.py tells what they are).
import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import { createInterface } from 'node:readline';

const SECRET = process.env.BENCH_SECRET;
const REST_MS = 50;

export function userOf(token) {
  const [head, body, signature] = token.split('.');
  const wanted = createHmac('sha256', SECRET).update(`${head}.${body}`).digest();
  const got = Buffer.from(signature, 'base64url');
  if (got.length !== wanted.length || !timingSafeEqual(got, wanted)) throw new Error('unauthorised');
  const claims = JSON.parse(Buffer.from(body, 'base64url'));
  if (claims.exp * 1000 < Date.now()) throw new Error('expired');
  return claims.sub;
}

const nameOf = (number) => `u${String(number).padStart(6, '0')}`;

function envelope(number, first, end) {
  const toUserIds = [];
  for (let user = first; user < end; user++) toUserIds.push(nameOf(user));
  return Buffer.from(JSON.stringify({
    from: 'orders',
    UUID: randomUUID(),
    content: {
      version: 1.1,
      type: 'order.shipped',
      title: 'On its way',
      body: 'Your parcel has left our house and will be with you tomorrow.',
      data: { seq: number },
    },
    toUserIds,
    createBy: 'orders-svc',
    createDateTime: new Date().toISOString(),
  }));
}

function prepare(rounds, burst, fanout, count) {
  const all = [];
  for (let round = 0; round < rounds; round++) {
    const groups = [];
    for (let first = 0; first < count; first += fanout) {
      const values = [];
      for (let number = 0; number < burst; number++) {
        values.push(envelope(round * burst + number, first, Math.min(first + fanout, count)));
      }
      groups.push(values);
    }
    all.push(groups);
  }
  return all;
}

const rest = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const turn = () => new Promise((resolve) => setImmediate(resolve));

export async function obey(deliver) {
  let work = [];
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, ...numbers] = line.split(' ');
    if (command === 'prepare') {
      work = prepare(...numbers.map(Number));
      global.gc();
      console.log('prepared');
    } else if (command === 'go') {
      for (const groups of work) {
        for (const values of groups) {
          for (const value of values) deliver(value);
          await turn();
        }
        await rest(REST_MS);
      }
      console.log('done');
    } else if (command === 'collect') {
      global.gc();
      console.log('collected');
    }
  }
  process.exit(0);
}

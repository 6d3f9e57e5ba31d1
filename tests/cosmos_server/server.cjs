// A Cosmos DB server for the tests: in memory, on this machine, with faults on request.
//
//     node server.cjs [PORT]        0, or nothing, for a free one; prints "ready http://127.0.0.1:PORT/"
//
// It ends when its standard input does, and so with the process that started it. For tests alone it has:
//     POST /_fault    make a fault, see faults.cjs      GET /_fault    those there are, and what they met
//     DELETE /_fault  no more faults                    GET /_stats    requests of each kind, bytes in and out
"use strict";

const { createHmac } = require("crypto");
require("./semantics.cjs"); // before the server, see there
const { createHttpServer } = require("@vercel/cosmosdb-server");
const { Faults, happen } = require("./faults.cjs");

// Microsoft's emulator has it too: https://learn.microsoft.com/azure/cosmos-db/emulator#authentication
const KEY = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw==";
const MAX_REQUEST = 2 * 1024 * 1024;

const faults = new Faults();
const stats = { bytesIn: 0, bytesOut: 0 };

/** Answers in the place of the package, and past what `pass` makes of the package's answers. */
function answerOn(response) {
  const end = response.end.bind(response);
  return (status, body, headers = {}) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    end(JSON.stringify(body));
  };
}

/** The parts of a path; an odd number of them ends with a kind of resource, an even one with the id of one. */
const partsOf = (request) => decodeURIComponent(request.url.split("?")[0]).split("/").filter(Boolean);
const kindOf = (parts) => parts[parts.length % 2 ? parts.length - 1 : parts.length - 2] || "";

function control(request, answer) {
  if (request.url === "/_stats") return answer(200, stats);
  if (request.method === "DELETE") faults.clear();
  if (request.method === "POST") faults.add(JSON.parse(request.body));
  return answer(200, faults.list);
}

async function textOf(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** https://learn.microsoft.com/rest/api/cosmos-db/access-control-on-cosmosdb-resources; the package checks nothing. */
function isAuthorized(request, parts) {
  const link = (parts.length % 2 ? parts.slice(0, -1) : parts).join("/");
  const date = (request.headers["x-ms-date"] || "").toLowerCase();
  const signed = `${request.method.toLowerCase()}\n${kindOf(parts)}\n${link}\n${date}\n\n`;
  const signature = createHmac("sha256", Buffer.from(KEY, "base64")).update(signed).digest("base64");
  return decodeURIComponent(request.headers.authorization || "") === `type=master&ver=1.0&sig=${signature}`;
}

/** Count what a request and its answer took on the connection, which carries one request after the other. */
function count(request, response, kind) {
  stats[kind] = (stats[kind] || 0) + 1;
  const { socket } = request;
  response.on("close", () => {
    const seen = socket.seen || { read: 0, written: 0 };
    socket.seen = { read: socket.bytesRead, written: socket.bytesWritten };
    stats.bytesIn += socket.bytesRead - seen.read;
    stats.bytesOut += socket.bytesWritten - seen.written;
  });
}

/** Let the package answer, with what its answer lacks, and with a fault between the work and the answer. */
function pass(request, response, fault, answer) {
  const setHeader = response.setHeader.bind(response);
  const end = response.end.bind(response);
  response.setHeader = (name, value) => setHeader(name, name === "connection" ? "keep-alive" : value);
  setHeader("x-ms-session-token", "0:-1#1");
  setHeader("x-ms-version", "2018-12-31");
  response.end = async (body) => {
    const isLost = fault && fault.after && (await happen(fault, request, answer));
    if (fault) fault.over += 1;
    if (isLost) return;
    // It names itself with https whatever it speaks, and the client goes where it is told.
    if (request.url === "/") body = body.replace(/https:\/\//g, "http://");
    end([204, 304].includes(response.statusCode) ? undefined : body);
  };
  serve(request, response);
}

const server = createHttpServer({ keepAlive: true });
const [serve] = server.listeners("request");
server.removeAllListeners("request");

server.on("request", async (request, response) => {
  const answer = answerOn(response);
  const parts = partsOf(request);
  const forTests = request.url.startsWith("/_");
  if (!forTests) count(request, response, `${request.method} ${kindOf(parts) || "account"}`);
  try {
    request.body = await textOf(request);
  } catch {
    return; // the client has gone
  }
  if (forTests) return control(request, answer);
  if (parts.length && !isAuthorized(request, parts)) {
    return answer(401, { code: "Unauthorized", message: "The authorization token is wrong" });
  }
  if (Buffer.byteLength(request.body) > MAX_REQUEST) {
    return answer(413, { code: "RequestEntityTooLarge", message: "The request is too large" });
  }
  const fault = faults.meet(request);
  if (fault && !fault.after && (await happen(fault, request, answer))) {
    fault.over += 1;
    return;
  }
  pass(request, response, fault, answer);
});

process.stdin.on("close", () => process.exit(0)).resume();
server.listen(Number(process.argv[2]) || 0, "127.0.0.1", () => {
  console.log(`ready http://127.0.0.1:${server.address().port}/`);
});

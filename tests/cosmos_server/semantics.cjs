// What @vercel/cosmosdb-server 1.0.1 lacks or gets wrong, and azure-cosmos needs: partitions that keep apart what is in
// them, a 404 for what is missing, transactions, time to live.
//
// It replaces parts of that package's insides, which is why package.json pins it exactly. The package's routes keep the
// handlers they find, so this module is loaded before the server itself. Still missing, because nothing here asks for
// it: hierarchical keys, the change feed, patches in transactions, If-None-Match, OFFSET, GROUP BY, LIKE, DISTINCT.
"use strict";

const { dirname, join } = require("path");

const lib = join(dirname(require.resolve("@vercel/cosmosdb-server/package.json")), "lib");
const inside = (name) => require(join(lib, name));

const getValue = inside("utils/get-value").default;
const partitionHeader = inside("utils/get-partition-from-header");
const answerPages = inside("handler/_read-items").default;
const operations = inside("handler/_document-operations");
const Documents = inside("account/documents").default;

const OWNER_NOT_FOUND = "1003";

// --- Bodies: the server has read them before a fault can happen, for a client that gives up takes the unread ones along.

inside("json").default = async (request) => JSON.parse(request.body);

// --- Partitions: the package takes the first path's value as it is, so that 1 and "1" are one partition. Here a
// partition's name is the JSON of its whole key.

const UNDEFINED = "\u0000undefined";
const keyName = (values) => JSON.stringify(values.map((value) => (value === undefined ? UNDEFINED : value)));
const keyPaths = (properties) => ((properties.partitionKey || {}).paths || ["/id"]).map((path) => path.slice(1).split("/"));
const partitionOf = (properties, document) => keyName(keyPaths(properties).map((path) => getValue(path, document)));

Documents.prototype._getPartition = function (document) {
  return partitionOf(this._parent.read(), document);
};

partitionHeader.parsePartitionKey = (header) => keyName([].concat(JSON.parse(header)));

/** The partition a request names, or undefined: it goes to all of them. */
function requestedPartition(request) {
  const key = JSON.parse(request.headers["x-ms-documentdb-partitionkey"] || "[]");
  return key.length ? keyName(key) : undefined;
}

// --- ETags and time to live: the package's ETags are not in quotation marks, and it keeps everything for ever. What
// expires is looked for when the first of it is due, and not at each request.

const seconds = () => Date.now() / 1000;
const store = Documents.prototype._set;

Documents.prototype._set = function (document) {
  document._etag = `"${document._etag.replace(/"/g, "")}"`;
  const { defaultTtl } = this._parent.read();
  const ttl = defaultTtl === undefined || document.ttl === undefined ? defaultTtl : document.ttl;
  const expires = ttl === undefined || ttl === -1 ? Infinity : seconds() + ttl;
  Object.defineProperty(document, "expires", { value: expires, enumerable: false });
  this.nextExpires = Math.min(this.nextExpires || Infinity, expires);
  return store.call(this, document);
};

function removeExpired(documents) {
  if (!(seconds() > documents.nextExpires)) return;
  documents.nextExpires = Infinity;
  for (const item of [...documents._data.values()]) {
    const document = item.read();
    if (seconds() > document.expires) documents.delete(document.id, documents._getPartition(document));
    else documents.nextExpires = Math.min(documents.nextExpires, document.expires);
  }
}

// --- Handlers. Each finds its container first: the package answers 500 where one is missing.

function refuse(response, status, code, message) {
  response.statusCode = status;
  return { code, message };
}

const missing = (response) => refuse(response, 404, "NotFound", "Resource Not Found");

/** Put `handle(container, request, response, params)` in the place of one of the package's handlers. */
function replaceHandler(name, handle) {
  const module = inside(`handler/${name}`);
  const original = module.default;
  module.default = async (account, request, response, params) => {
    const container = account.database(params.dbId).collection(params.collId);
    if (!container.read()) {
      response.setHeader("x-ms-substatus", OWNER_NOT_FOUND);
      return missing(response);
    }
    removeExpired(container.documents);
    return handle(container, request, response, params, () => original(account, request, response, params));
  };
}

for (const name of ["create-document", "upsert-document", "replace-document", "patch-document", "delete-document"]) {
  replaceHandler(name, (container, request, response, params, original) => original());
}

// The package answers 500 for a document that is missing, or is in another partition.
replaceHandler("read-document", (container, request, response, { docId }) => {
  const partition = requestedPartition(request);
  if (partition === undefined) return refuse(response, 400, "BadRequest", "PartitionKey value must be supplied");
  const document = container.documents._item("/id", docId, partition).read();
  return document && document.id === docId ? document : missing(response);
});

/** The documents of the partition a request names; the package gives those of every partition. */
function documentsFor(container, request) {
  const partition = requestedPartition(request);
  const all = [...container.documents._data.values()].map((item) => item.read());
  if (partition === undefined) return all;
  return all.filter((document) => container.documents._getPartition(document) === partition);
}

replaceHandler("query-documents", (container, request, response) =>
  answerPages(request, response, "Documents", async ({ continuation, maxItemCount }) => {
    const { query, parameters } = JSON.parse(request.body);
    try {
      return container.documents._getQuery(query).exec(documentsFor(container, request), {
        parameters,
        maxItemCount,
        continuation,
        compositeIndexes: (container.read().indexingPolicy || {}).compositeIndexes || [],
      });
    } catch (error) {
      return refuse(response, 400, "BadRequest", error.message);
    }
  }));

replaceHandler("read-documents", (container, request, response) =>
  answerPages(request, response, "Documents", async (page) =>
    container.documents._getQuery("SELECT * FROM c").exec(documentsFor(container, request), page)));

// A transaction is all or nothing and stays in its partition; the package does what it can of one, anywhere.

const STEPS = {
  Create: operations.createOperation,
  Upsert: operations.upsertOperation,
  Read: operations.readOperation,
  Replace: operations.replaceOperation,
  Delete: operations.deleteOperation,
};

function step(container, partitionKey, operation) {
  const { operationType, resourceBody, id, ifMatch } = operation;
  const partition = partitionHeader.parsePartitionKey(partitionKey);
  const perform = STEPS[operationType];
  const strays = resourceBody && container.documents._getPartition(resourceBody) !== partition;
  if (!perform || strays) return { statusCode: 400 };
  return perform(container, { id, ifMatch, resourceBody, partitionKey });
}

replaceHandler("batch-documents", (container, request, response) => {
  const list = JSON.parse(request.body);
  const { documents } = container;
  const before = { _data: new Map(documents._data), _index: new Map(documents._index) };
  const results = [];
  for (const operation of list) {
    const { statusCode, body } = step(container, request.headers["x-ms-documentdb-partitionkey"], operation);
    if (statusCode >= 400) {
      Object.assign(documents, before);
      response.statusCode = 207;
      return list.map((_, index) => ({ statusCode: index === results.length ? statusCode : 424, requestCharge: 0 }));
    }
    results.push({ statusCode, requestCharge: 1, eTag: body && body._etag, resourceBody: body });
  }
  return results;
});

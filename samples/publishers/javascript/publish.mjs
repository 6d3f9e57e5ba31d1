// Tells the agent that the work is done: node publish.mjs ticket.json '{"number": 1292}'
//
// ticket.json is what the agent handed over, from context.expect_callback(...).to_dict().
// Needs: npm install @azure/service-bus @azure/identity. It connects with SERVICE_BUS_CONNECTION (a connection string),
// or to SERVICE_BUS_NAMESPACE (name.servicebus.windows.net) as whoever runs it, with the role Azure Service Bus Data
// Sender.
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { ServiceBusClient } from "@azure/service-bus";

async function connect() {
  const connection = process.env.SERVICE_BUS_CONNECTION;
  if (connection) return new ServiceBusClient(connection);
  const { DefaultAzureCredential } = await import("@azure/identity");
  return new ServiceBusClient(process.env.SERVICE_BUS_NAMESPACE, new DefaultAzureCredential());
}

const ticket = JSON.parse(await readFile(process.argv[2], "utf8"));
const event = {
  specversion: "1.0",
  id: randomUUID(), // the same source and id again has no second effect: keep it for a retry
  source: "/samples/javascript",
  type: "agent.callback.result.v1",
  data: { ...ticket, value: JSON.parse(process.argv[3]) },
};
const client = await connect();
try {
  const sender = client.createSender(process.env.CALLBACK_QUEUE ?? "agent-callbacks");
  await sender.sendMessages({
    body: event, // the SDK writes it as JSON
    contentType: "application/cloudevents+json",
    messageId: event.id, // lets the queue drop a duplicate before the agent sees it
    sessionId: ticket.conversationId.slice(0, 128), // what a queue with sessions keeps in order
    subject: event.type,
  });
} finally {
  await client.close();
}

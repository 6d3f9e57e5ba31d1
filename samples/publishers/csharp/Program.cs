// Tells the agent that the work is done: dotnet run
//
// Needs: dotnet add package Azure.Messaging.ServiceBus, and Azure.Identity. It connects with SERVICE_BUS_CONNECTION (a
// connection string), or to SERVICE_BUS_NAMESPACE (name.servicebus.windows.net) as whoever runs it, with the role Azure
// Service Bus Data Sender.
using System.Text.Json.Nodes;
using Azure.Identity;
using Azure.Messaging.ServiceBus;

// Everything but the value is what the agent handed over, from context.expect_callback(...).to_dict().
const string callback = """
    {
      "conversationId": "a:1conversation",
      "channelId": "msteams",
      "continuation": "order_placed",
      "ticket": "t1.claims.signature",
      "value": { "number": 1292 }
    }
    """;

var data = JsonNode.Parse(callback)!;
var conversation = (string)data["conversationId"]!;
// Binary mode: the event's attributes are application properties, its data is the body.
var message = new ServiceBusMessage(data.ToJsonString())
{
    ContentType = "application/json",
    MessageId = Guid.NewGuid().ToString(), // lets the queue drop a duplicate before the agent sees it
    SessionId = conversation[..Math.Min(128, conversation.Length)], // what a queue with sessions keeps in order
    Subject = "agent.callback.result.v1",
};
message.ApplicationProperties["cloudEvents:specversion"] = "1.0";
message.ApplicationProperties["cloudEvents:type"] = message.Subject;
message.ApplicationProperties["cloudEvents:source"] = "/samples/csharp";
// The same source and id again has no second effect: keep it for a retry.
message.ApplicationProperties["cloudEvents:id"] = message.MessageId;

var connection = Environment.GetEnvironmentVariable("SERVICE_BUS_CONNECTION");
await using var client = connection is not null
    ? new ServiceBusClient(connection)
    : new ServiceBusClient(Environment.GetEnvironmentVariable("SERVICE_BUS_NAMESPACE"), new DefaultAzureCredential());
await using var sender = client.CreateSender(Environment.GetEnvironmentVariable("CALLBACK_QUEUE") ?? "agent-callbacks");
await sender.SendMessageAsync(message);

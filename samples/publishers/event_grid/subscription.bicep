// Events of an Event Grid topic go to the callback queue: for publishers that speak Event Grid and not Service Bus.
//
//   az deployment group create --resource-group RG --template-file subscription.bicep \
//     --parameters topicName=TOPIC serviceBusName=NAMESPACE
//
// What is then published to the topic is event.json, as application/cloudevents+json.

param topicName string
param serviceBusName string
param callbackQueue string = 'agent-callbacks'
param location string = resourceGroup().location

var dataSender = '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39' // Azure Service Bus Data Sender

resource queue 'Microsoft.ServiceBus/namespaces/queues@2022-10-01-preview' existing = {
  name: '${serviceBusName}/${callbackQueue}'
}

resource topic 'Microsoft.EventGrid/topics@2022-06-15' = {
  name: topicName
  location: location
  identity: { type: 'SystemAssigned' }
  properties: { inputSchema: 'CloudEventSchemaV1_0' }
}

resource mayDeliver 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(queue.id, topic.id, dataSender)
  scope: queue
  properties: {
    principalId: topic.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataSender)
  }
}

resource callbacks 'Microsoft.EventGrid/topics/eventSubscriptions@2022-06-15' = {
  parent: topic
  name: 'agent-callbacks'
  dependsOn: [mayDeliver]
  properties: {
    eventDeliverySchema: 'CloudEventSchemaV1_0'
    // What the agent does not read does not come to it: everything else would be a dead letter there.
    filter: {
      includedEventTypes: [
        'agent.callback.result.v1'
        'agent.callback.progress.v1'
        'agent.callback.failed.v1'
        'agent.notification.v1'
      ]
    }
    deliveryWithResourceIdentity: {
      identity: { type: 'SystemAssigned' }
      destination: {
        endpointType: 'ServiceBusQueue'
        properties: {
          resourceId: queue.id
          // A queue with sessions keeps a conversation's messages in order.
          deliveryAttributeMappings: [
            {
              name: 'SessionId'
              type: 'Dynamic'
              properties: { sourceField: 'data.conversationId' }
            }
          ]
        }
      }
    }
  }
}

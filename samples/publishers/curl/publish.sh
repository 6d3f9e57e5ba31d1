#!/usr/bin/env bash
# Tells the agent that the work is done, over HTTP, with nothing but curl and openssl.
#
# SERVICE_BUS_NAMESPACE is name.servicebus.windows.net. With SERVICE_BUS_KEY_NAME and SERVICE_BUS_KEY it signs a SAS token;
# without them it takes the token of `az login`, whose user needs the role Azure Service Bus Data Sender.
set -euo pipefail
uri="https://$SERVICE_BUS_NAMESPACE/${CALLBACK_QUEUE:-agent-callbacks}"
id=${CALLBACK_ID:-$(date +%s)-$$-$RANDOM} # the same id again has no second effect: keep it for a retry

url_encoded() { sed -e 's/%/%25/g' -e 's/+/%2B/g' -e 's/:/%3A/g' -e 's/\//%2F/g' -e 's/=/%3D/g'; }

if [ -n "${SERVICE_BUS_KEY:-}" ]; then
    resource=$(printf '%s' "$uri" | url_encoded)
    expires=$(($(date +%s) + 300))
    # openssl shows the key to whoever can list this machine's processes: on a shared one take the token of Entra.
    signature=$(printf '%s\n%s' "$resource" "$expires" | openssl dgst -sha256 -hmac "$SERVICE_BUS_KEY" -binary |
        base64 | tr -d '\n' | url_encoded)
    authorization="SharedAccessSignature sr=$resource&sig=$signature&se=$expires&skn=$SERVICE_BUS_KEY_NAME"
else
    authorization="Bearer $(az account get-access-token --resource https://servicebus.azure.net \
        --query accessToken --output tsv)"
fi

# Everything but the value is what the agent handed over, from context.expect_callback(...).to_dict().
curl --fail-with-body --silent --show-error "$uri/messages" \
    --header "Authorization: $authorization" \
    --header "Content-Type: application/json" \
    --header "BrokerProperties: {\"MessageId\": \"$id\", \"SessionId\": \"a:1conversation\"}" \
    --data-binary @- <<'JSON'
{
  "conversationId": "a:1conversation",
  "channelId": "msteams",
  "continuation": "order_placed",
  "ticket": "t1.claims.signature",
  "value": { "number": 1292 }
}
JSON

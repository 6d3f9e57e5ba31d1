<#
Tells the agent that the work is done, over HTTP (PowerShell 7): ./publish.ps1 -Namespace name.servicebus.windows.net

With -KeyName and -Key it signs a SAS token; without them it takes the token of Connect-AzAccount (module Az.Accounts),
whose user needs the role Azure Service Bus Data Sender.
#>
param(
    [Parameter(Mandatory)] [string] $Namespace,
    [string] $Queue = 'agent-callbacks',
    [string] $KeyName,
    [string] $Key
)
$ErrorActionPreference = 'Stop'
$uri = "https://$Namespace/$Queue"

# Everything but the value is what the agent handed over, from context.expect_callback(...).to_dict().
$event = @'
{
  "specversion": "1.0",
  "id": "ID",
  "source": "/samples/powershell",
  "type": "agent.callback.result.v1",
  "data": {
    "conversationId": "a:1conversation",
    "channelId": "msteams",
    "continuation": "order_placed",
    "ticket": "t1.claims.signature",
    "value": { "number": 1292 }
  }
}
'@ | ConvertFrom-Json
# The same source and id again has no second effect: keep it for a retry.
$event.id = [guid]::NewGuid().ToString()

if ($Key) {
    $resource = [uri]::EscapeDataString($uri)
    $expires = [DateTimeOffset]::UtcNow.AddMinutes(5).ToUnixTimeSeconds()
    $hmac = [Security.Cryptography.HMACSHA256]::new([Text.Encoding]::UTF8.GetBytes($Key))
    $hash = $hmac.ComputeHash([Text.Encoding]::UTF8.GetBytes("$resource`n$expires"))
    $signature = [uri]::EscapeDataString([Convert]::ToBase64String($hash))
    $authorization = "SharedAccessSignature sr=$resource&sig=$signature&se=$expires&skn=$KeyName"
} else {
    # A SecureString from Az.Accounts 5 on, plain text before.
    $token = (Get-AzAccessToken -ResourceUrl 'https://servicebus.azure.net').Token
    if ($token -is [securestring]) { $token = [Net.NetworkCredential]::new('', $token).Password }
    $authorization = "Bearer $token"
}

$properties = @{ MessageId = $event.id; SessionId = $event.data.conversationId; Label = $event.type }
Invoke-RestMethod -Method Post -Uri "$uri/messages" -SkipHeaderValidation `
    -Headers @{ Authorization = $authorization; BrokerProperties = ($properties | ConvertTo-Json -Compress) } `
    -ContentType 'application/cloudevents+json' `
    -Body ([Text.Encoding]::UTF8.GetBytes(($event | ConvertTo-Json -Depth 60 -Compress)))

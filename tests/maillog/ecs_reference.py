"""The fields of the Elastic Common Schema 8.11 that our log may use, from its reference.

https://www.elastic.co/guide/en/ecs/8.11/ecs-field-reference.html: name, type, and whether the
reference says that it is an array. ALLOWED: values of the fields that have a closed list.
"""

from __future__ import annotations

FIELDS = {
    "@timestamp": ("date", False),
    "message": ("match_only_text", False),
    "ecs.version": ("keyword", False),
    "log.level": ("keyword", False),
    "event.action": ("keyword", False),
    "event.category": ("keyword", True),
    "event.dataset": ("keyword", False),
    "event.duration": ("long", False),
    "event.kind": ("keyword", False),
    "event.module": ("keyword", False),
    "event.outcome": ("keyword", False),
    "event.reason": ("keyword", False),
    "event.type": ("keyword", True),
    "process.name": ("keyword", False),
    "process.pid": ("long", False),
    "host.hostname": ("keyword", False),
    "user.name": ("keyword", False),
    "network.protocol": ("keyword", False),
    "client.ip": ("ip", False),
    "client.domain": ("keyword", False),
    "source.ip": ("ip", False),
    "server.ip": ("ip", False),
    "destination.ip": ("ip", False),
    "destination.port": ("long", False),
    "destination.domain": ("keyword", False),
    "email.local_id": ("keyword", False),
    "email.message_id": ("wildcard", False),
    "email.sender.address": ("keyword", False),
    "email.to.address": ("keyword", True),
}
#: Below a name of our own ECS asks for nothing but one type per field.
OWN = {
    "size": "long", "nrcpt": "long", "uid": "long", "mpid": "long", "reply": "long",
    "orig_to": "keyword", "relay": "keyword", "delays": "keyword", "dsn": "keyword",
    "status": "keyword", "helo": "keyword", "method": "keyword", "session": "keyword",
}  # fmt: skip
ALLOWED = {
    "event.kind": {
        "alert", "asset", "enrichment", "event", "metric", "state", "pipeline_error", "signal",
    },
    "event.category": {
        "api", "authentication", "configuration", "database", "driver", "email", "file", "host",
        "iam", "intrusion_detection", "library", "malware", "network", "package", "process",
        "registry", "session", "threat", "vulnerability", "web",
    },
    "event.outcome": {"success", "failure", "unknown"},
    "log.level": {"info", "warning", "error", "fatal", "panic"},
}  # fmt: skip
#: Which event.type each event.category expects.
TYPES_OF = {
    "authentication": {"start", "end", "info"},
    "email": {"info"},
    "network": {
        "access", "allowed", "connection", "denied", "end", "info", "protocol", "start",
    },
}  # fmt: skip
REQUIRED = {"@timestamp", "ecs.version", "log.level", "message", "event.dataset", "event.kind"}

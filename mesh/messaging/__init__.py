"""Correlation on messages: one conversation keeps its id through any broker.

Whoever sends puts a few headers on a message (`inject`, or `producing`, which makes a span of the sending as well);
whoever takes it reads them (`extract`, or `consuming`, which enters the conversation). The names are those of gRPC
metadata: `x-correlation-id`, `traceparent`, `tracestate` and `baggage`, in Kafka, NATS and AMQP headers, MQTT 5 user
properties and Redis stream fields alike. AMQP's correlation_id and MQTT's Correlation Data are never touched: they
match replies with requests.

`mesh.messaging.nats` has this ready for NATS.
"""

from mesh.messaging.propagation import Incoming, extract, inject
from mesh.messaging.spans import recording
from mesh.messaging.working import consuming, producing

__all__ = ["Incoming", "consuming", "extract", "inject", "producing", "recording"]

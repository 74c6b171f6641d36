"""What comes in, sent on to other collectors by OTLP/gRPC."""

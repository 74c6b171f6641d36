"""TLS files: read, proved, followed as they change; and as grpc takes them."""

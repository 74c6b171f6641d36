"""Active checks of instances by grpc.health.v1."""

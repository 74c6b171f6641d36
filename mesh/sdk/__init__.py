"""What a service joins the mesh with: its server, its channels, its configuration, logs, spans and metrics."""

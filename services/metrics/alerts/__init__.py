"""Alerts: rules, their states, silences and acknowledgements, and how alerts reach people."""

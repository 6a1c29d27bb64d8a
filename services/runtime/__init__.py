"""What every service stands on: settings, identity, serving, calling, failures, telemetry, stores.

It holds no noun of a domain and imports no service.
"""

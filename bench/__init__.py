"""What Gatehouse is held against: measurements, comparisons, and faults."""

import os

# Programs are started while calls are under way, and gRPC, which none of them goes on using, has
# nothing to do at that moment. It reads this when it is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

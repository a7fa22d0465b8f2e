"""How the first members of a company find each other: through a store that they need once and never again."""

import json
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from adamesh.membership.roster import Member, Roster

__all__ = ["found_through", "founding_store"]


def founding_store(host: str, port: int, rank: int, size: int, timeout_s: float) -> Store:
    """The store at an address; the founder of rank 0 hosts it."""
    timeout = timedelta(seconds=timeout_s)
    # This process may serve a store there already, through which the workers have agreed on the run's folder.
    return TCPStore(host, port, size, is_master=rank == 0, timeout=timeout, wait_for_workers=False, multi_tenant=True)


def found_through(store: Store, me: Member, rank: int, size: int) -> Roster:
    """Exchange addresses; returns when all founders have.

    Raises:
        DistStoreError: somebody did not come in time.
    """
    store = PrefixStore("adamesh founding", store)
    store.set(f"member {rank}", json.dumps([me.name, me.host, me.port]))
    members = tuple(Member(*json.loads(store.get(f"member {other}"))) for other in range(size))
    # Its host keeps the store until nobody needs it any more.
    store.set(f"done {rank}", "")
    if rank == 0:
        store.wait([f"done {other}" for other in range(size)])
    return Roster(0, members)

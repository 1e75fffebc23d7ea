"""Students that teach each other while they learn (Zhang et al., 2018)."""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.catalog.base import Architecture, Scheme
from app.catalog.families import AnyArchitecture

Peers = (
    Annotated[int, Field(ge=1, le=7)] | Annotated[list[AnyArchitecture], Field(min_length=1, max_length=7)]
)


class Mutual(Scheme):
    """Deep mutual learning: student and peers are trained in lockstep, and each hears what the others say to
    the same batch, one term a peer, beside the teachers, if there are any (Zhang et al., 2018).

    A peer counts as much as a teacher of weight 1. The paper's loss is `kd` with temperature 1 and
    `cross_entropy`, each with weight 1.
    """

    teaches_itself: ClassVar[bool] = True

    kind: Literal["mutual"] = "mutual"
    peers: Peers = Field(
        1, description="how many more of the same architecture, each with first weights of its own; or their "
        "architectures"
    )  # fmt: skip

    def hops(self, student: Architecture) -> list[list[tuple[str, Architecture]]]:
        peers = [student] * self.peers if isinstance(self.peers, int) else self.peers
        return [[*((f"peer_{number}", one) for number, one in enumerate(peers, 1)), ("student", student)]]

    def map(self, change: Callable[[str, Architecture], Architecture]) -> "Mutual":
        if isinstance(self.peers, int):
            return self
        peers = [change(f"peers/{place}", one) for place, one in enumerate(self.peers)]
        return self.model_copy(update={"peers": peers})

    def about(self, name: str) -> str:
        if name == "student":
            return "the distilled student, which learned together with its peers"
        return f"peer {name.removeprefix('peer_')}, which learned together with the student"

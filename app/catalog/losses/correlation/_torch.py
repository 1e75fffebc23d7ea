"""The two embeddings."""

from torch import Tensor, nn

from app.catalog._torch import seeded
from app.catalog.base import Batch, Outputs
from app.catalog.layer_tensors import counted, vectors
from app.catalog.losses.correlation import Correlation, congruence


class Embedded(nn.Module):
    """widths: of the student's representation and of the teacher's."""

    def __init__(self, form: Correlation, widths: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.form = form
        with seeded(seed):
            self.student = nn.Linear(widths[0], form.embed)
        with seeded(seed):  # the same draw, so that equal representations begin as equal embeddings
            self.teacher = nn.Linear(widths[1], form.embed)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        (mine,), (theirs,), tokens = counted(*self.form.sides(student, teacher), batch.mask)
        return congruence(self.student(vectors(mine, tokens)), self.teacher(vectors(theirs, tokens)))

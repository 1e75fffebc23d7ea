"""`python -m examples.iris FOLDER` writes forest.onnx and iris.csv: a forest, and a table it has never seen.

The forest stands for any model that is no neural network: it teaches as a black box, through ONNX. It learned
one half of the flowers; the table holds the other half.
"""

import csv
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from examples.folder import folder_argument


def main() -> None:
    write(folder_argument("examples.iris", __doc__, "data/iris"))


def write(folder: Path) -> None:
    iris = load_iris()
    names = iris.target_names[iris.target]
    seen, rest, classes, others = train_test_split(
        iris.data.astype(np.float32), names, test_size=0.5, stratify=names, random_state=0
    )
    forest = RandomForestClassifier(random_state=0).fit(seen, classes)
    model = to_onnx(forest, seen[:1], options={"zipmap": False})
    (folder / "forest.onnx").write_bytes(model.SerializeToString())
    columns = [name.removesuffix(" (cm)").replace(" ", "_") for name in iris.feature_names]
    with (folder / "iris.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "species"])
        writer.writerows(
            [*map(float, row.round(1)), str(name)] for row, name in zip(rest, others, strict=True)
        )


if __name__ == "__main__":
    main()

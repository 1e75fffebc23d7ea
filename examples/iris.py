"""`python -m examples.iris FOLDER` writes iris.csv and forest.onnx: a table and a forest that learned it.

The forest stands for any model that is no neural network: it teaches as a black box, through ONNX.
"""

import csv
import sys
from pathlib import Path

from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data/iris")
    folder.mkdir(parents=True, exist_ok=True)
    iris = load_iris()
    names = [str(name) for name in iris.target_names]
    columns = [name.removesuffix(" (cm)").replace(" ", "_") for name in iris.feature_names]
    with (folder / "iris.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "species"])
        writer.writerows([*row, names[label]] for row, label in zip(iris.data, iris.target, strict=True))
    forest = RandomForestClassifier(random_state=0).fit(iris.data, [names[label] for label in iris.target])
    model = to_onnx(forest, iris.data[:1].astype("float32"), options={"zipmap": False})
    (folder / "forest.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()

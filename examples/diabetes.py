"""`python -m examples.diabetes FOLDER` writes forest.onnx and diabetes.csv: a forest that tells a number.

It learned how the illness went on in one half of the patients; the table holds the other half.
"""

import csv
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import train_test_split

from examples.folder import folder_argument


def main() -> None:
    write(folder_argument("examples.diabetes", __doc__, "data/diabetes"))


def write(folder: Path) -> None:
    patients = load_diabetes()
    seen, rest, known, others = train_test_split(
        patients.data.astype(np.float32), patients.target, test_size=0.5, random_state=0
    )
    forest = RandomForestRegressor(min_samples_leaf=5, random_state=0).fit(seen, known)
    (folder / "forest.onnx").write_bytes(to_onnx(forest, seen[:1]).SerializeToString())
    with (folder / "diabetes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*patients.feature_names, "progression"])
        writer.writerows([*map(float, row), float(number)] for row, number in zip(rest, others, strict=True))


if __name__ == "__main__":
    main()

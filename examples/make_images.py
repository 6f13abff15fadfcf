"""Write 600 handwritten digits as images/train/<digit>/<number>.png and 200 as images/test/..., enlarged to 16 x 16."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for place, (pixels, label) in enumerate(zip(digits.images[:800], digits.target[:800], strict=True)):
    folder = Path("images") / ("train" if place < 600 else "test") / str(label)
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray((pixels * 15.9375).astype(np.uint8))
    image.resize((16, 16)).save(folder / f"{place:04}.png")

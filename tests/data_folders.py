"What the tests of data share: a small folder of images and masks, and the message of an error."
import json

import numpy as np
import pytest
from PIL import Image

from segbook.masks import SegbookError

CODES = ['background', 'wall', 'Void']


def folder(path, n=10, size=(40, 48), valid=2, image=None, mask=None):
    "A small data folder: `image(i)` and `mask(i)` give arrays."
    for d in ('images', 'labels'): (path/d).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        x = image(i) if image else rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        y = mask(i) if mask else np.fromfunction(lambda r, c: (r//8 + c//8 + i) % 3,
            size).astype(np.uint8)
        Image.fromarray(x).save(path/'images'/f'{i:02d}.png')
        Image.fromarray(y).save(path/'labels'/f'{i:02d}_P.png')
    (path/'codes.txt').write_text('\n'.join(CODES))
    if valid: (path/'valid.txt').write_text('\n'.join(f'{i:02d}.png' for i in range(valid)))
    return path


def message(f, *args, **kw):
    with pytest.raises(SegbookError) as e: f(*args, **kw)
    return str(e.value)


def coco(file, anns, **kw):
    "COCO's JSON for the photos a.jpg and b.png, 6 wide and 4 high"
    d = dict(images=[dict(id=1, file_name='a.jpg', width=6, height=4),
            dict(id=2, file_name='b.png', width=6, height=4)],
        categories=[dict(id=5, name='cat'), dict(id=2, name='dog')], annotations=anns)
    file.write_text(json.dumps({**d, **kw}))
    return file

"""photographs.py RETINA NUCLEI: the two photographs of the front page with their masks, as
images/photographs.png.

RETINA and NUCLEI are folders in the layout of the course (images/, labels/NAME_P.png,
codes.txt): DRIVE, CC BY 4.0, and BBBC038, CC0. The folders are no part of the repository;
`get_data` downloads sets of the same sources."""
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from segbook.masks import SegFolder, read_mask

INK, MARK = '#1a1a1a', (255, 206, 61)


def shown(folder, number):
    "(photograph, the same with its mask laid over) of one image, cut to the middle square"
    found = SegFolder(folder)
    image, mask = np.array(Image.open(found.images[number]).convert('RGB')), np.array(
        read_mask(found.labels[number]))
    side = min(mask.shape)
    top, left = ((n - side)//2 for n in mask.shape)
    image, mask = (o[top:top+side, left:left+side] for o in (image, mask))
    # fluorescence is dark
    if image.mean() < 40: image = (255*(image/image.max())**.7).astype('uint8')
    return image, np.where((mask == 1)[..., None], MARK, (image*.4).astype('uint8'))


def main(retina, nuclei):
    fig, axs = plt.subplots(1, 4, figsize=(9.6, 2.72), dpi=100, layout='constrained')
    panels = [*shown(retina, 0), *shown(nuclei, 9)]
    for ax, image, title in zip(axs, panels,
            ('a retina', 'its vessels', 'cells, stained', 'their nuclei')):
        ax.imshow(image, interpolation='nearest')
        ax.set_title(title, color=INK, fontsize=11)
        ax.axis('off')
    to = Path(__file__).parent/'photographs.png'
    fig.savefig(to, metadata={'Software': None})
    Image.open(to).convert('RGB').quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(to,
        optimize=True)
    print(to.name, to.stat().st_size, 'bytes')


if __name__ == '__main__': main(*sys.argv[1:])

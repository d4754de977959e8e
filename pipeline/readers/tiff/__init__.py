"""The direct reader: TIFF tags parsed here, tiles decoded by `imagecodecs`.

`tags` reads directories, `page` one image's grid of tiles, `pyramid` which images are one
slide (`ome` what OME-XML says of that), `decode` a tile's pixels, `plane` puts tiles together into
boxes, `reader` is what the rest of the package sees.
"""

from pipeline.readers.tiff.reader import TiffReader, open_reader

__all__ = ["TiffReader", "open_reader"]

"""Kernels that move many small pieces: their published times say what a DMA costs besides its bytes."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl


@nki.jit
def window_means(images, rows, columns):
    """Mean of each of rows x columns windows of every image [N, C, H, W]; each window is loaded by itself.

    One buffer for windows per 128 images, windows of at most 128 x 128 elements at a time, a sum per piece.
    """
    batch, channels, height, width = images.shape
    count = batch * channels
    flat = images.reshape((count, height, width))
    means = nl.ndarray((count, rows, columns), dtype=images.dtype, buffer=nl.shared_hbm)
    lanes = min(count, nl.tile_size.pmax)
    groups = (count + lanes - 1) // lanes
    tall, wide = (
        min(-(-size // parts) + (size % parts > 0), 128) for size, parts in ((height, rows), (width, columns))
    )
    window = nl.zeros((groups, nl.par_dim(lanes), tall, wide), dtype=images.dtype, buffer=nl.sbuf)
    result = nl.zeros((groups, nl.par_dim(lanes), rows, columns), dtype=images.dtype, buffer=nl.sbuf)
    for group in nl.affine_range(groups):
        first = group * lanes
        for row in nl.static_range(rows):
            for column in nl.static_range(columns):
                top, bottom = row * height // rows, -(-(row + 1) * height // rows)
                left, right = column * width // columns, -(-(column + 1) * width // columns)
                total = nl.zeros((lanes, 1), dtype=nl.float32, buffer=nl.sbuf)
                for y in range(top, bottom, 128):
                    for x in range(left, right, 128):
                        h, w = min(128, bottom - y), min(128, right - x)
                        nisa.dma_copy(
                            dst=window[group, :, 0:h, 0:w], src=flat[first : first + lanes, y : y + h, x : x + w]
                        )
                        total[:, :] = total[:, :] + nl.sum(window[group, :, 0:h, 0:w], axis=[-2, -1])
                size = (bottom - top) * (right - left)
                result[group, :, row, column] = nl.divide(total, size)
        nl.store(means[first : first + lanes, :, :], value=result[group])
    return means


@nki.jit
def nearest_rows(images, out_rows, out_columns):
    """Nearest-neighbour enlargement of [N, H, W, C]: each pixel of the result is a load and a store of its own."""
    batch, height, width, channels = images.shape
    source = images.reshape((batch, height * width, channels))
    result = nl.ndarray((batch, out_rows * out_columns, channels), dtype=images.dtype, buffer=nl.shared_hbm)
    for pixel in nl.static_range(out_rows * out_columns):
        row, column = divmod(pixel, out_columns)
        nearest = int(row * height / out_rows) * width + int(column * width / out_columns)
        tile = nl.load(source[0:batch, nearest, 0:channels])
        nl.store(result[0:batch, pixel, 0:channels], value=tile)
    return result

"""`dataset=shelf`: a synthetic RP2K with ground truth, drawn on this machine in seconds.

`generate.make_shelf` writes JPEG and PNG files in RP2K's layout, and the ground truth of each.  `scene.redraw` draws
one of them again without some of its nuisances.  `options.ShelfOptions` are the options.
"""

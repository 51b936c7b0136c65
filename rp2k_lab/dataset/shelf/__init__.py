"""`dataset=shelf`: a synthetic RP2K with known answers, drawn on this machine in seconds.

`generate.make_shelf` writes JPEG and PNG files in RP2K's layout and the truth about each beside them;
`scene.redraw` shows one of them again without some of its nuisances; `options.ShelfOptions` is what can be asked.
"""

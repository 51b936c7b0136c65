"""Augmentation of uint8 RGB images: one small class per operation, `operation(image, rng) -> image`.

An operation takes and returns a C-contiguous uint8 array (height, width, 3).  It may overwrite its argument and may
return it.  All random numbers come from the given generator, and an operation has no state: an augmented image is a
pure function of (seed, epoch, position), whichever thread makes it.

`options.Aug` combines a policy, an erasing and a mix.  policy/, erase/ and mix/ have one file per choice, with its
options and its operation.  All these files are imported at the start of each command: they import NumPy and OpenCV
(0.1 s) in the functions that need them.
"""

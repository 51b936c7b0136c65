"""Data sets, one file each: its option class and how its images are listed (`rp2k_lab.dataset.options`)."""

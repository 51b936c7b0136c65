# %% [markdown]
# # A tour of the data
#
# This notebook opens a run, loads the data set that the run was trained on, and follows a photo from its file to the
# batch.

# %%
from rp2k_lab.notebook import data_tour
from rp2k_lab.notebook.run_context import open_data

# %% [markdown]
# `run` is the id or the name of a run in MLflow. `None` selects the newest finished training run in this clone's
# store. `make notebooks RUN=<id>` sets it.

# %% tags=["parameters"]
run = None
uri = None

# %%
data = open_data(run, uri)
data_tour.summary(data)

# %% [markdown]
# The fingerprint is a hash of every photo's path, split and size. If photos have changed since the run, the cell
# above reports it.
#
# ## The long tail
#
# Few classes have most of the photos, and many have a handful. Results are therefore also reported by groups of
# classes: head, medium and tail. The axis is logarithmic.

# %%
data_tour.long_tail(data)

# %% [markdown]
# Some classes of each group, from the largest to the smallest, with their number of training photos.

# %%
data_tour.classes_of_each_group(data)

# %% [markdown]
# ## Sizes and shapes
#
# Products on a shelf are seldom square, but a network's input is. How a photo becomes square matters.

# %%
data_tour.sizes_and_shapes(data)

# %% [markdown]
# ## Letterbox or stretch
#
# *Letterbox* scales the photo until it fits and pads it with black: it keeps the shape and loses pixels. *Stretch*
# fills the square: it uses all pixels and loses the shape, which may be the only difference between two products.
# This page enlarges small inputs to show single pixels.

# %%
data_tour.letterbox_and_stretch(data)

# %% [markdown]
# ## Augmentation of one photo
#
# The same photo in the first epochs of training, one row for each augmentation. Every row uses the run's crop, flip
# and color with the same random numbers, so that only the augmentation differs. Mixup and CutMix add a second photo
# and a fraction of its label.

# %%
data_tour.augmentations(data)

# %% [markdown]
# ## One batch
#
# The photos of the run's first training step. The seed alone determines the order and every augmentation, so this
# batch can be reproduced at any time.

# %%
data_tour.first_batch(data)

# %% [markdown]
# ## The truth of the shelf set
#
# Photos of a real shelf are tilted, blurred, too dark or reflecting. The embedded shelf set draws these nuisances one
# by one and records them for each photo. Below is the strongest case of each nuisance, redrawn without it and without
# any.

# %%
data_tour.nuisances(data)

# %% [markdown]
# Classes of one brand share shape and layout and differ in flavor or size: they are look-alikes by construction.

# %%
data_tour.families(data)

# %% [markdown]
# The shelf set can plant wrong labels and copies, to measure the tools that search for them.

# %%
data_tour.planted(data)

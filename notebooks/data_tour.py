# %% [markdown]
# # A tour of the data
#
# Before asking what a network makes of photos, it is worth knowing what they are. This notebook opens a run, brings
# back the data set as the run was trained on it, and follows a photo from its file to the batch.

# %%
from rp2k_lab.notebook import data_tour
from rp2k_lab.notebook.run_context import open_data

# %% [markdown]
# `run` is the id or the name of a run in MLflow. `None` takes the newest finished training run in this clone's store.
# `make notebooks RUN=<id>` fills it in.

# %% tags=["parameters"]
run = None
uri = None

# %%
data = open_data(run, uri)
data_tour.summary(data)

# %% [markdown]
# The fingerprint is a hash of every photo's path, split and size. Where photos have changed since the run, the cell
# above says so.
#
# ## The long tail
#
# Few classes have most of the photos, and many have a handful. Results are therefore also reported by groups of
# classes: head, medium and tail. Mind the axis, which is logarithmic.

# %%
data_tour.long_tail(data)

# %% [markdown]
# Some classes of each group, from the largest to the smallest, with the number of their training photos.

# %%
data_tour.classes_of_each_group(data)

# %% [markdown]
# ## Sizes and shapes
#
# Products on a shelf are seldom square. A network's input is, and what happens in between matters.

# %%
data_tour.sizes_and_shapes(data)

# %% [markdown]
# ## Letterbox or stretch
#
# *Letterbox* scales the photo until it fits and fills up with black: the shape stays, pixels are lost. *Stretch* fills
# the square: all pixels are used, and the shape is gone, though a shape may be what tells two products apart. Small
# inputs are enlarged on this page so that single pixels can be seen.

# %%
data_tour.letterbox_and_stretch(data)

# %% [markdown]
# ## What augmentation makes of one photo
#
# The same photo in the first epochs of training, once for each augmentation. Crop, flip and color are in every line as
# the run had them, and from line to line they come out the same, so that what differs is the augmentation alone. Mixup
# and CutMix bring in a second photo, and with it a share of its label.

# %%
data_tour.augmentations(data)

# %% [markdown]
# ## One batch
#
# This is what the run's configuration makes of these photos for the very first step of training. The order and every
# augmentation follow from the seed alone, so the batch can be made again at any time.

# %%
data_tour.first_batch(data)

# %% [markdown]
# ## What the shelf set knows
#
# Photos of a real shelf are tilted, blurred, too dark, reflecting. The embedded shelf set draws these nuisances one by
# one and writes down which are in which photo. Below, the strongest case of each, drawn again without it and without
# any.

# %%
data_tour.nuisances(data)

# %% [markdown]
# Classes of one brand share shape and layout and differ in flavor or size: look-alikes by construction.

# %%
data_tour.families(data)

# %% [markdown]
# Wrong labels and copies can be planted on request; that is how the tools that look for them are measured.

# %%
data_tour.planted(data)

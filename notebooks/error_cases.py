# %% [markdown]
# # Error cases
#
# This notebook opens a run of `task=errors` and shows why each error happened, which products look alike, how good
# the photos are, and which labels deserve a second look. It runs no network: all results come from the run's
# artifacts in MLflow.

# %%
from rp2k_lab.notebook import error_cases
from rp2k_lab.notebook.run_context import open_errors

# %% [markdown]
# `run` is the id or the name of a run in MLflow: the analysis itself, or the analyzed training run. `None` selects
# the newest analysis in this clone's store. `make notebooks RUN=<id>` sets it.

# %% tags=["parameters"]
run = None
uri = None

# %%
errors = open_errors(run, uri)
error_cases.summary(errors)

# %% [markdown]
# ## Causes
#
# Rules assign causes to each error. An error may have several; the *main* cause is the first that holds, in the order
# of the rows below. The order asks first whether it is an error at all, then whether the photo shows the product, and
# last what the network lacks. The column *top-1 without them* shows the possible gain.

# %%
error_cases.causes(errors)

# %% [markdown]
# Below, each row is one error: the photo, a typical training photo of its class and of the predicted class, and the
# nearest training photos in feature space. The most confident errors come first.
#
# **Suspected labels.** Here the network may be right and the label wrong.

# %%
error_cases.examples(errors, "suspected_label")

# %% [markdown]
# **Others.** The catch-all class has no common look: it holds all products without a class, so that it borders on
# every other class.

# %%
error_cases.examples(errors, "others")

# %% [markdown]
# **Photo.** Much darker or lighter than the class's training photos, more blurred, reflecting, or of an extreme
# shape. Better photos help here. An augmentation that imitates such photos may help, too.

# %%
error_cases.examples(errors, "photo")

# %% [markdown]
# **Look-alikes.** Two classes that are near in feature space and are confused in both directions, or of which
# a large part is taken for the other: often the same brand in another flavor or size. More pixels may help.

# %%
error_cases.examples(errors, "look_alike")

# %% [markdown]
# **Tail.** The class has too few training photos to be learned well.

# %%
error_cases.examples(errors, "tail")

# %% [markdown]
# **Unexplained.** No rule holds. Start here to find a missing rule.

# %%
error_cases.examples(errors, "unexplained")

# %% [markdown]
# ## What accuracy depends on
#
# Every point is the accuracy on about the same number of photos, and the line through it is its 95 % interval. If
# intervals overlap widely, a difference may be chance.

# %%
error_cases.accuracy_over_measures(errors)

# %% [markdown]
# ## The hardest classes
#
# Ordered by the *upper* end of the interval, so that the first classes are certainly hard. Ordered by accuracy,
# classes with a single photo would come first and mean nothing.

# %%
error_cases.hardest_classes(errors)

# %% [markdown]
# ## Families of look-alikes
#
# Pairs of look-alikes form clusters. A few families are easier to read than a confusion matrix of all classes.

# %%
error_cases.clusters(errors)

# %% [markdown]
# ## Photos at fault
#
# A shelf set can be redrawn without blur or bad light. If the network then recognizes the product, the photo *was* at
# fault. This gives precision and recall of the rule for `photo`.

# %%
error_cases.photo_score(errors)

# %% [markdown]
# ## Suspected labels
#
# Confident learning ranks the labels of photos that the network was not trained on. A person decides: pass the
# reviewed list as `dataset.relabel=<file>`. The data on disk do not change.

# %%
error_cases.suspected_labels(errors)

# %% [markdown]
# A shelf set with planted wrong labels measures the ranking. The curve shows precision over recall: the fraction of
# wrong labels in the list over the fraction of all wrong labels that the list contains. The dashed line is a random
# order.

# %%
error_cases.label_curve(errors)

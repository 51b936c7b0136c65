# %% [markdown]
# # Error cases
#
# A network was asked what it sees on photos, and some of its answers were wrong. This notebook opens what `task=errors`
# found out about them: why each error happened, which products look alike, what the photos were like, and which labels
# deserve a second look. Nothing is asked of the network again: everything comes from what that run left in MLflow.

# %%
from rp2k_lab.notebook import error_cases
from rp2k_lab.notebook.run_context import open_errors

# %% [markdown]
# `run` is the id or the name of a run in MLflow: of the analysis itself, or of the training run that it looked at.
# `None` takes the newest analysis in this clone's store. `make notebooks RUN=<id>` fills it in.

# %% tags=["parameters"]
run = None
uri = None

# %%
errors = open_errors(run, uri)
error_cases.summary(errors)

# %% [markdown]
# ## Why it was wrong
#
# Each error is held against written rules. It may satisfy several; the *main* cause is the first that holds, in
# the order of the rows below. That order asks first whether the error is one at all, then whether the photo shows the
# product, and only then what the network lacks. The column *top-1 without them* says how much there is to gain.

# %%
error_cases.causes(errors)

# %% [markdown]
# Numbers do not show what an error looks like. Below, each line is one of them: first the photo, then a typical
# training photo of its class and one of the class it was taken for, and at the end the training photos that the
# network finds nearest. The errors it was surest of come first.
#
# **Suspected labels.** Here the network may be right and the label wrong.

# %%
error_cases.examples(errors, "suspected_label")

# %% [markdown]
# **Others.** The catch-all class has no look of its own: whatever nobody gave a class ends there, so that it borders
# on every other class.

# %%
error_cases.examples(errors, "others")

# %% [markdown]
# **The photo.** Much darker or lighter than the class's training photos, more blurred, reflecting, or of an extreme
# shape. Better photos help here, and so may an augmentation that shows the network such photos in training.

# %%
error_cases.examples(errors, "photo")

# %% [markdown]
# **Look-alikes.** Two classes that lie near one another in feature space and are taken for each other in both
# directions: often the same brand in another flavor or size. More pixels may help.

# %%
error_cases.examples(errors, "look_alike")

# %% [markdown]
# **The tail.** The class has so few training photos that it could hardly be learned.

# %%
error_cases.examples(errors, "tail")

# %% [markdown]
# **Unexplained.** None of the rules holds. Start here when looking for a rule that is still missing.

# %%
error_cases.examples(errors, "unexplained")

# %% [markdown]
# ## What accuracy depends on
#
# Every point is the accuracy on about the same number of photos, and the line through it is its interval. Where
# intervals overlap widely, a rise or a fall may be chance.

# %%
error_cases.accuracy_over_measures(errors)

# %% [markdown]
# ## The hardest classes
#
# Ordered by the *upper* end of the interval: these are the classes that are surely hard. Going by the accuracy itself,
# classes of a single photo would lead the list and mean nothing.

# %%
error_cases.hardest_classes(errors)

# %% [markdown]
# ## Families of look-alikes
#
# Pairs of look-alikes, joined into clusters. Reading a few families tells more than a confusion matrix with a row and
# a column for every class.

# %%
error_cases.clusters(errors)

# %% [markdown]
# ## Was it the photo's fault?
#
# A shelf set can be drawn again without blur or bad light. Where the network then recognizes the product, the photo
# *was* at fault, which shows how far the rule for `photo` can be trusted: how often it blames the photo rightly, and
# how many of the photo's faults it finds.

# %%
error_cases.photo_score(errors)

# %% [markdown]
# ## Labels to look at
#
# Ranked by confident learning on photos that the network was not trained on. A person decides: a reviewed list comes
# back as `dataset.relabel=<file>`, and the data stay as they are.

# %%
error_cases.suspected_labels(errors)

# %% [markdown]
# On a shelf set with planted wrong labels the ranking itself can be measured. The curve shows, for each share of the
# wrong labels that a list contains, how many of its entries are really wrong; the dashed line is a list in any order.

# %%
error_cases.label_curve(errors)

"""Trained models by name: listed, verified, loaded on any backend, and cited."""

from keras_robust.zoo.card import render_card as render_card
from keras_robust.zoo.card import write_card as write_card
from keras_robust.zoo.entry import Entry as Entry
from keras_robust.zoo.entry import External as External
from keras_robust.zoo.entry import Reported as Reported
from keras_robust.zoo.entry import json_schema as json_schema
from keras_robust.zoo.entry import make_entry as make_entry
from keras_robust.zoo.leaderboard import leaderboard_page as leaderboard_page
from keras_robust.zoo.leaderboard import model_info as model_info
from keras_robust.zoo.registry import citation as citation
from keras_robust.zoo.registry import list_entries as list_entries
from keras_robust.zoo.registry import load as load
from keras_robust.zoo.results import results_table as results_table

"""Faults in the command line: what a run keeps, what it trains on, what it says."""

from faults.planting import fault

PROGRESS = "cli/progress.py"
RUN, TRAINING, CORPUS, TEXT, OPTIONS, FIGURES = (
    f"cli/{name}.py" for name in ("run_folder", "training", "corpus", "text", "options", "figures")
)
RUNS, TRAININGS, CORPORA, TEXTS, INSPECTIONS = (
    f"cli/test_{name}.py::test" for name in ("run_folder", "training", "corpus", "text", "inspect")
)
BEST = f"{TRAININGS}_the_parameters_with_the_least_validation_loss_are_saved"

RUN_FAULTS = (
    fault(
        RUN,
        "_require_free",
        "a run replaced unasked",
        "if is_run and not overwrite:",
        "if is_run and not overwrite and not stamps:",
        f"{RUNS}_a_run_is_replaced_only_if_that_is_asked_for",
    ),
    fault(
        RUN,
        "_lock",
        "two trainings in a folder",
        "fcntl.LOCK_EX",
        "fcntl.LOCK_SH",
        f"{RUNS}_two_trainings_cannot_have_one_folder",
    ),
    fault(
        RUN,
        "save",
        "a later run mixed in",
        "if _stamps(folder).items() - replaced.items():",
        "if _stamps(folder).keys() - replaced.keys() - {*FILES}:",
        f"{RUNS}_a_run_that_came_meanwhile_is_left_alone",
    ),
    fault(
        RUN,
        "_move_files",
        "half of a run left",
        "os.rename(earlier / name, folder / name)",
        "pass",
        f"{RUNS}_a_folder_stays_as_it_was_if_a_file_cannot_take_its_place",
    ),
    fault(
        PROGRESS,
        "Progress.selected",
        "the last parameters saved",
        "return self.best",
        "return self.step, self.state.params",
        BEST,
    ),
    fault(
        PROGRESS,
        "Progress.record",
        "the worst parameters saved",
        'evaluation["loss"] < min(losses, default=np.inf)',
        'evaluation["loss"] > max(losses, default=-np.inf)',
        BEST,
    ),
)

TEXT_FAULTS = (
    fault(
        CORPUS,
        "split",
        "the test part selects",
        "held_out[:half], held_out[half:]",
        "held_out[half:], held_out[half:]",
        f"{CORPORA}_the_last_twentieth_is_held_out_half_to_select_and_half_to_test",
    ),
    fault(
        TEXT,
        "task",
        "an example trained on",
        "next(corpus.segments(validation,",
        "next(corpus.segments(tokens,",
        "cli/test_portable_runs.py::test_the_example_is_of_the_text_that_was_not_trained_on",
    ),
    fault(
        TEXT,
        "task.loss",
        "training without noise",
        "key if model.is_noisy else None",
        "None",
        "cli/test_layers_and_dropout.py"
        "::test_noise_is_the_same_under_every_loop_and_gone_when_scoring[bptt]",
    ),
    fault(
        OPTIONS,
        "recurrent_layers",
        "no noise behind a cell",
        "layer.append(dropout(dropout_rate))",
        "pass",
        f"{TEXTS}_dropout_is_behind_the_embedding_and_behind_each_cell",
    ),
    fault(
        TEXT,
        "bits_per_character",
        "inputs scored as targets",
        "targets = tokens[1 : 1 + streams * length]",
        "targets = tokens[: streams * length]",
        f"{TEXTS}_streams_are_scored_side_by_side",
    ),
    fault(
        TEXT,
        "generate",
        "a first token of no model",
        "draw(model.output(params, carry),",
        "draw(0 * model.output(params, carry),",
        f"{TEXTS}_without_a_prompt_the_first_token_is_what_the_zero_state_expects",
    ),
    fault(
        FIGURES,
        "save",
        "a title cut off",
        "if width > room:",
        "if width > 9 * room:",
        f"{INSPECTIONS}_a_long_title_gets_a_smaller_font_and_a_short_one_does_not",
    ),
)

RESUMED = "cli/test_resuming.py::test_an_interrupted_run_goes_on_to_the_same_bits[5]"

RESUMING_FAULTS = (
    fault(
        TRAINING,
        "_advance",
        "data from the beginning",
        "task.batches(first)",
        "task.batches(0)",
        RESUMED,
    ),
    fault(
        PROGRESS,
        "Progress.from_arrays",
        "the best forgotten",
        'if "best" in arrays:',
        'if "worst" in arrays:',
        RESUMED,
    ),
    fault(
        PROGRESS,
        "Progress.record",
        "half an update recorded",
        "        self.history.append(row)\n        self.state = state",
        "        self.state = state",
        RESUMED,
    ),
    fault(
        "cli/digits.py",
        "batches",
        "epochs of one order",
        "        draws.permutation(count)\n    while",
        "        pass\n    while",
        "cli/test_digits.py::test_batches_go_on_from_any_number[7]",
    ),
    fault(
        "cli/resuming.py",
        "require_same_data",
        "other data",
        "begun_with == data",
        "begun_with",
        "cli/test_resuming.py::test_other_data_are_refused",
    ),
)

FAULTS = (*RUN_FAULTS, *TEXT_FAULTS, *RESUMING_FAULTS)

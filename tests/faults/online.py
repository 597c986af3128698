"""Faults in the online algorithms: the influence, its sparsity, masks and resets, UORO's scales."""

from faults.planting import fault

LEARNER, INFLUENCE, PLAN, PRODUCTS, SPARSITY, CUTS, ROWS, UORO, TRAINER = (
    f"online/{name}.py"
    for name in (
        *(
            "learner",
            "influence",
            "plan",
            "products",
            "sparsity",
            "cuts",
            "rows",
            "uoro",
            "trainer",
        ),
    )
)
TEST = "online/test_online.py::test"
RTRL = f"{TEST}_rtrl_equals_bptt_over_two_calls_with_masks_and_resets"
SNAP = f"{TEST}_snap_equals_its_definition"
MEAN = f"{TEST}_the_mean_of_uoro_is_rtrl[elman]"
SPLIT = f"{TEST}_calls_in_any_split_give_the_same_sum"
INFLUENCE_OF_ONE = "diagnostics/test_influence.py::test_the_influence_is_the_derivative"

FAULTS = (
    fault(
        INFLUENCE,
        "_carried",
        "J transposed",
        '"bij,bjkm->bikm"',
        '"bji,bjkm->bikm"',
        f"{RTRL}[gru]",
    ),
    fault(
        INFLUENCE,
        "_carried",
        "the influence of the wrong unit",
        "* s[:, j : j + 1]",
        "* s[:, j : j + 1, :, ::-1]",
        f"{RTRL}[min_gru]",
    ),
    fault(
        INFLUENCE,
        "SparseInfluence.advance",
        "the immediate term left out",
        "direct[pair.target].astype(carried.dtype) + carried",
        "carried",
        f"{RTRL}[gru]",
    ),
    fault(
        PLAN,
        "_reachable",
        "one step too few",
        "order - 1",
        "order - 2",
        f"{TEST}_snap_of_full_order_is_rtrl[gru]",
    ),
    fault(
        PLAN,
        "_pairs",
        "colors without conflicts",
        "colors[used] = _color(conflicts)",
        "colors[used] = 0",
        f"{RTRL}[gru]",
    ),
    fault(
        PLAN,
        "_blocks",
        "the last layer instead of the first",
        "layer_of[rows.any(axis=1)].min()",
        "layer_of[rows.any(axis=1)].max()",
        f"{TEST}_across_layers_snap_keeps_what_acts_within_the_step",
    ),
    fault(
        PRODUCTS,
        "Product.mask",
        "the wrong side is needed",
        "needed.T",
        "np.roll(needed, 1, 0)",
        f"{SNAP}[gru-1]",
    ),
    fault(
        PRODUCTS,
        "masked_product",
        "the weight of another unit",
        "w[rows, columns]",
        "w[rows[::-1], columns]",
        f"{SNAP}[gru-1]",
    ),
    fault(
        SPARSITY,
        "_concatenate",
        "an operand that depends on all counts as one that depends on nothing",
        "pattern is not None)",
        "False)",
        f"{SNAP}[gru_reset_before-1]",
    ),
    fault(
        SPARSITY,
        "_split",
        "the wrong part",
        "a[end - size : end]",
        "a[:size]",
        f"{RTRL}[gru]",
    ),
    fault(
        SPARSITY,
        "_of_product",
        "contracted axes are kept",
        "if p not in contracted[side] and p not in batch[side]",
        "if p not in batch[side]",
        f"{RTRL}[gru]",
    ),
    fault(
        CUTS,
        "_cut_mixing_along",
        "nothing is cut",
        "cuts.setdefault(position, set()).update(dependent)",
        "pass",
        f"{TEST}_eprop_follows_a_units_own_memory[elman]",
    ),
    fault(
        CUTS,
        "_cut_mixing_along",
        "what goes to the loss is cut too",
        "if not dependent or reaching.isdisjoint(eqn.outvars):",
        "if not dependent:",
        f"{TEST}_eprop_of_an_lstm_is_the_factorization_of_its_authors",
    ),
    fault(
        ROWS,
        "_to_real",
        "the sign of the imaginary part",
        "jnp.imag(x)]",
        "-jnp.imag(x)]",
        f"{RTRL}[lru]",
    ),
    fault(
        LEARNER,
        "_run.advance",
        "the influence crosses a reset",
        "kept = tree.zero_unmasked(~resets, kept)",
        "",
        f"{RTRL}[gru]",
    ),
    fault(
        LEARNER,
        "_run.advance",
        "a masked step changes the influence",
        "new = tree.where(runs, new, (v, others, kept))",
        "new = (*tree.where(runs, new[:2], (v, others)), new_kept)",
        f"{RTRL}[gru]",
    ),
    fault(
        LEARNER,
        "_run.advance",
        "the gradient of the past left out",
        "+ indirect",
        "",
        f"{RTRL}[min_gru]",
    ),
    fault(
        LEARNER,
        "_run",
        "a masked step counts in the mean",
        "jnp.maximum(jnp.sum(runs), 1)",
        "jnp.asarray(runs.size)",
        f"{RTRL}[gru]",
    ),
    fault(
        UORO,
        "RankOneInfluence.advance.of_row",
        "the scale of the signs",
        "+ rho_1.astype(u.dtype) * signs",
        "+ signs",
        MEAN,
    ),
    fault(
        UORO,
        "RankOneInfluence.advance.of_row",
        "the scale of the weights",
        "a / rho_0.astype(a.dtype)",
        "a",
        MEAN,
    ),
    fault(
        LEARNER,
        "_run.advance",
        "the same key at every step",
        "return _Steps(*new, key, gradient), losses",
        "return _Steps(*new, state.key, gradient), losses",
        MEAN,
    ),
    fault(
        TRAINER,
        "trainer.update",
        "the rest of the steps left out",
        "if rest:",
        "if False:",
        "online/test_online_training.py::test_updates_every_k_steps[3]",
    ),
    fault(
        "diagnostics/influence.py",
        "parameter_influence.one_step",
        "the term of another step",
        "a.at[t].set(d)",
        "a.at[0].set(d)",
        f"{INFLUENCE_OF_ONE}_and_its_terms_add_up_to_it[elman-w_h-index0]",
    ),
)

"""Checks of arguments, which raise our own error before anything compiles.

Every message has one form: "argument: got …, expected …". `messages` raises the error, `options`
checks numbers, texts and functions, and `arrays` checks arrays and trees of arrays.
"""

from jaxrnn.check.arrays import (
    Leaf as Leaf,
    PyTree as PyTree,
    abstract_zero_carry as abstract_zero_carry,
    batch_shape as batch_shape,
    float_dtype as float_dtype,
    is_inexact as is_inexact,
    num_steps as num_steps,
    one_step as one_step,
    require_arrays as require_arrays,
    require_batch_axes as require_batch_axes,
    require_bool_array as require_bool_array,
    require_bool_sequence as require_bool_sequence,
    require_carry as require_carry,
    require_concrete as require_concrete,
    require_elementwise as require_elementwise,
    require_features as require_features,
    require_floating as require_floating,
    require_integer_array as require_integer_array,
    require_key as require_key,
    require_leading_axes as require_leading_axes,
    require_loop_result as require_loop_result,
    require_one_per_part as require_one_per_part,
    require_pair as require_pair,
    require_params as require_params,
    require_same_devices as require_same_devices,
    require_same_structure as require_same_structure,
    require_same_tree as require_same_tree,
    require_scalar_loss as require_scalar_loss,
    require_step as require_step,
)
from jaxrnn.check.messages import (
    Value as Value,
    describe as describe,
    option_type_error as option_type_error,
    require as require,
    require_option_type as require_option_type,
    require_type as require_type,
)
from jaxrnn.check.options import (
    parse_bytes as parse_bytes,
    require_bool as require_bool,
    require_callable as require_callable,
    require_finite as require_finite,
    require_hashable as require_hashable,
    require_instance as require_instance,
    require_int as require_int,
    require_number as require_number,
    require_path as require_path,
    require_positive as require_positive,
    require_rate as require_rate,
)

"""What a network has learnt and how it gives way: measurements and figures."""

from keras_robust.analysis.activation_shift import LayerShift as LayerShift
from keras_robust.analysis.activation_shift import activation_shift as activation_shift
from keras_robust.analysis.activation_shift import activation_shift_figure as activation_shift_figure
from keras_robust.analysis.activation_shift import attacked_copies as attacked_copies
from keras_robust.analysis.activation_shift import noisy_copies as noisy_copies
from keras_robust.analysis.grad_cam import grad_cam as grad_cam
from keras_robust.analysis.grad_cam import grad_cam_figure as grad_cam_figure
from keras_robust.analysis.grad_cam import share_on as share_on
from keras_robust.analysis.kernel_maps import kernel_maps as kernel_maps
from keras_robust.analysis.kernel_maps import kernel_maps_figure as kernel_maps_figure
from keras_robust.analysis.subnets import BlockVulnerability as BlockVulnerability
from keras_robust.analysis.subnets import block_vulnerability as block_vulnerability
from keras_robust.analysis.subnets import block_vulnerability_figure as block_vulnerability_figure
from keras_robust.analysis.subnets import subnet_accuracies as subnet_accuracies
from keras_robust.analysis.subnets import subnet_accuracy_figure as subnet_accuracy_figure
from keras_robust.analysis.topography import Topography as Topography
from keras_robust.analysis.topography import first_kernels as first_kernels
from keras_robust.analysis.topography import topography as topography
from keras_robust.analysis.topography import topography_figure as topography_figure
from keras_robust.analysis.variance import LayerVariance as LayerVariance
from keras_robust.analysis.variance import variance_amplification as variance_amplification

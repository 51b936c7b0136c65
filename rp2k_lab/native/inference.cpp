// A network's forward pass as a list of oneDNN's primitives: every tensor stays in the layout that its producer chose,
// and activations and residuals are part of the convolution before them.  rp2k_lab/evaluation/native_network.py makes
// the list.

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "inference_onednn.h"
#include "thread_pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
// As the other functions with this attribute, for several processors: library.cpp refuses those without AVX2.
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))

namespace rp2k {
namespace {

using namespace onednn;
using Dims = std::vector<int64_t>;

struct Functions {
#define RP2K_MEMBER(name) decltype(&::name) name;
    RP2K_INFERENCE_FUNCTIONS(RP2K_MEMBER)
#undef RP2K_MEMBER
};

// The functions of the library that `real` is of.
const Functions &more() {
    static const Functions found = [] {
        Dl_info info;
        Functions functions;
        void *library = nullptr;
        if (real.dnnl_version && dladdr(reinterpret_cast<void *>(real.dnnl_version), &info))
            library = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
        if (!library) throw std::runtime_error("oneDNN is not loaded");
#define RP2K_LOAD(name)                                                          \
    functions.name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name)); \
    if (!functions.name) throw std::runtime_error("MindSpore's oneDNN has no function " #name);
        RP2K_INFERENCE_FUNCTIONS(RP2K_LOAD)
#undef RP2K_LOAD
        return functions;
    }();
    return found;
}

void check(dnnl_status_t status, const char *what) {
    if (status) throw std::runtime_error(std::string("oneDNN refuses ") + what + ", status " + std::to_string(status));
}

// A description of a tensor; null: none.
using Layout = std::shared_ptr<const dnnl_memory_desc>;

Layout own(dnnl_memory_desc_t desc) {
    return {desc, [](const_dnnl_memory_desc_t d) { real.dnnl_memory_desc_destroy(const_cast<dnnl_memory_desc_t>(d)); }};
}

Layout copy_of(const_dnnl_memory_desc_t desc) {
    dnnl_memory_desc_t result;
    check(real.dnnl_memory_desc_clone(&result, desc), "a layout");
    return own(result);
}

// The layout of an array without gaps; is_transposed: its last two axes are exchanged, `dims` are those afterwards.
Layout plain(const Dims &dims, bool is_transposed = false) {
    Dims strides(dims.size(), 1), order = dims;
    const size_t last = dims.size() - 1;
    if (is_transposed) std::swap(order[last], order[last - 1]);
    for (size_t i = last; i > 0; i--) strides[i - 1] = strides[i] * order[i];
    if (is_transposed) std::swap(strides[last], strides[last - 1]);
    dnnl_memory_desc_t result;
    check(more().dnnl_memory_desc_create_with_strides(&result, int(dims.size()), dims.data(), f32, strides.data()),
          "a layout");
    return own(result);
}

Layout any_layout(const Dims &dims) {
    dnnl_memory_desc_t result;
    check(real.dnnl_memory_desc_create_with_tag(&result, int(dims.size()), dims.data(), f32, any), "a layout");
    return own(result);
}

bool same(const Layout &a, const Layout &b) { return real.dnnl_memory_desc_equal(a.get(), b.get()); }

// Bytes that a tensor takes, with a gap to the next one.
size_t bytes_of(const Layout &layout) {
    return (real.dnnl_memory_desc_get_size_v2(layout.get(), 0) + 4095) / 4096 * 4096;
}

using Memory = std::shared_ptr<char>;

Memory allocate(size_t bytes) {
    constexpr size_t HUGE_PAGE = size_t(2) << 20;
    const size_t unit = bytes < HUGE_PAGE ? 4096 : HUGE_PAGE;
    auto *data = static_cast<char *>(std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit));
    if (!data) throw std::runtime_error("not enough memory");
    return {data, std::free};
}

// Memory of a tensor in one layout.  `memory`: of a constant; others share an arena, at `offset`, while they live: from
// step `first` to step `last`.
struct Buffer {
    size_t bytes = 0, offset = 0;
    int first = -1, last = -1;
    Memory memory;
};

struct Place {
    Layout layout;
    int buffer;
};

// A value of the network; `places`: the layouts that it is needed in, the producer's first.
struct Tensor {
    Dims dims;
    bool is_constant;
    std::vector<Place> places;
};

struct Bound {
    int key;
    Place place;
};

struct Step {
    std::shared_ptr<dnnl_primitive> primitive;
    std::vector<Bound> arguments;
    std::vector<std::shared_ptr<dnnl_memory>> memories;
};

// What Python asks for: `Operation` of rp2k_lab/native/inference.py.
struct Operation {
    enum Kind { convolution, pooling, binary, elementwise, dense, reshape, softmax, concat };
    int32_t kind, algorithm, source, second, bias, residual, target, may_overwrite, activation;
    float alpha, beta;
    int32_t count;
    const int32_t *sources;
    int64_t numbers[9];
};

class Network {
  public:
    Network() {
        check(more().dnnl_engine_create(&engine_, cpu, 0), "an engine");
        // This library's own function, which gives the stream our threads.
        check(::dnnl_threadpool_interop_stream_create(&stream_, engine_, nullptr), "a stream");
    }
    ~Network() {
        steps_.clear();
        more().dnnl_stream_destroy(stream_);
        more().dnnl_engine_destroy(engine_);
    }
    Network(const Network &) = delete;

    int add_tensor(const Dims &dims, bool is_constant) {
        tensors_.push_back({dims, is_constant, {}});
        return int(tensors_.size()) - 1;
    }

    void add_input(int tensor, const float *scale, const float *shift) {
        const int64_t channels = tensors_[tensor].dims[1];
        input_ = tensor;
        scale_.assign(scale, scale + channels);
        shift_.assign(shift, shift + channels);
        produce(tensor, plain(tensors_[tensor].dims));
    }

    void add(const Operation &o) {
        real.dnnl_threadpool_interop_set_max_concurrency(threads());
        switch (o.kind) {
            case Operation::convolution: return add_convolution(o);
            case Operation::pooling: return add_pooling(o);
            case Operation::binary: return add_binary(o);
            case Operation::elementwise: return add_elementwise(o);
            case Operation::dense: return add_dense(o);
            case Operation::reshape: return add_reshape(o);
            case Operation::softmax: return add_softmax(o);
            case Operation::concat: return add_concat(o);
        }
        throw std::runtime_error("no such operation");
    }

    // Lay out the memory.
    void finish(int output) {
        output_ = in_plain(output);
        output_bytes_ = real.dnnl_memory_desc_get_size_v2(output_.layout.get(), 0);
        buffers_[tensors_[input_].places[0].buffer].first = 0;
        buffers_[output_.buffer].last = int(steps_.size());
        arena_ = allocate(place_buffers());
        for (auto &step : steps_)
            for (auto &argument : step.arguments)
                step.memories.push_back(memory_of(argument.place.layout, at(argument.place)));
    }

    // Copy a constant, float32 without gaps, into the layouts that it is needed in.
    void set(int tensor, const float *data) {
        const Tensor &t = tensors_[tensor];
        auto source = memory_of(plain_of(t), const_cast<float *>(data));
        for (const auto &place : t.places) {
            auto target = memory_of(place.layout, at(place));
            const dnnl_exec_arg_t arguments[] = {{from, source.get()}, {to, target.get()}};
            auto reorder = primitive_of(describe_reorder(plain_of(t), place.layout, no_attributes().get()));
            check(real.dnnl_primitive_execute(reorder.get(), stream_, 2, arguments), "a constant");
        }
    }

    // images: uint8 (batch, height, width, channels); output: float32.
    void run(const uint8_t *images, float *output) {
        const Dims &dims = tensors_[input_].dims;
        const int64_t channels = dims[1], area = dims[2] * dims[3];
        auto *target = reinterpret_cast<float *>(at(tensors_[input_].places[0]));
        parallel_for(int(dims[0]), [&](int image, int) {
            for (int64_t c = 0; c < channels; c++)
                normalize(images + image * area * channels + c, target + (image * channels + c) * area, channels, area,
                          scale_[c], shift_[c]);
        });
        std::vector<dnnl_exec_arg_t> arguments;
        for (const auto &step : steps_) {
            arguments.clear();
            for (size_t i = 0; i < step.memories.size(); i++)
                arguments.push_back({step.arguments[i].key, step.memories[i].get()});
            check(real.dnnl_primitive_execute(step.primitive.get(), stream_, int(arguments.size()), arguments.data()),
                  "a step");
        }
        std::memcpy(output, at(output_), output_bytes_);
    }

  private:
    using Attributes = std::shared_ptr<dnnl_primitive_attr>;
    using PostOps = std::shared_ptr<dnnl_post_ops>;

    WIDE static void normalize(
        const uint8_t *source, float *target, int64_t step, int64_t n, float scale, float shift) {
        for (int64_t i = 0; i < n; i++) target[i] = source[i * step] * scale + shift;
    }

    // Attributes of a primitive with these operations after it; its scratch memory is ours.
    static Attributes attributes(const PostOps &operations) {
        dnnl_primitive_attr_t made;
        check(more().dnnl_primitive_attr_create(&made), "attributes");
        Attributes result(made, [](dnnl_primitive_attr_t a) { more().dnnl_primitive_attr_destroy(a); });
        check(more().dnnl_primitive_attr_set_scratchpad_mode(made, user_scratchpad), "attributes");
        if (operations) check(more().dnnl_primitive_attr_set_post_ops(made, operations.get()), "attributes");
        return result;
    }
    static Attributes no_attributes() { return nullptr; }

    enum class Residual { none, sum, add };

    // The residual, then the activation; of a sum the target already holds the residual.
    Attributes epilogue(const Operation &o, Residual residual) const {
        dnnl_post_ops_t made;
        check(more().dnnl_post_ops_create(&made), "operations");
        PostOps operations(made, [](dnnl_post_ops_t p) { more().dnnl_post_ops_destroy(p); });
        if (residual == Residual::sum) check(more().dnnl_post_ops_append_sum(made, 1.0f, 0, 0), "a sum");
        if (residual == Residual::add)
            check(more().dnnl_post_ops_append_binary(made, binary_add, layout(o.residual).get()), "a residual");
        if (o.activation)
            check(more().dnnl_post_ops_append_eltwise(made, o.activation, o.alpha, o.beta), "an activation");
        return attributes(operations);
    }

    std::shared_ptr<dnnl_memory> memory_of(const Layout &layout, void *data) const {
        dnnl_memory_t made;
        check(real.dnnl_memory_create_v2(&made, layout.get(), engine_, 1, &data), "memory");
        return {made, [](dnnl_memory_t m) { real.dnnl_memory_destroy(m); }};
    }

    static std::shared_ptr<dnnl_primitive> primitive_of(dnnl_primitive_desc_t desc) {
        dnnl_primitive_t made;
        const dnnl_status_t status = real.dnnl_primitive_create(&made, desc);
        real.dnnl_primitive_desc_destroy(desc);
        check(status, "a primitive");
        return {made, [](dnnl_primitive_t p) { real.dnnl_primitive_destroy(p); }};
    }

    dnnl_primitive_desc_t describe_reorder(
        const Layout &source, const Layout &target, const_dnnl_primitive_attr_t a) {
        dnnl_primitive_desc_t desc;
        check(real.dnnl_reorder_primitive_desc_create(&desc, source.get(), engine_, target.get(), engine_, a),
              "a copy");
        return desc;
    }

    static Layout wanted(dnnl_primitive_desc_t desc, int argument) {
        return copy_of(real.dnnl_primitive_desc_query_md(desc, exec_arg_md, argument));
    }

    const Layout &layout(int tensor) const { return tensors_[tensor].places.at(0).layout; }
    static Layout plain_of(const Tensor &t) { return plain(t.dims); }
    Place in_plain(int tensor) { return in_layout(tensor, plain_of(tensors_[tensor])); }

    int add_buffer(const Layout &layout, bool is_constant) {
        buffers_.push_back({bytes_of(layout), 0, -1, -1, is_constant ? allocate(bytes_of(layout)) : nullptr});
        return int(buffers_.size()) - 1;
    }

    // A tensor in a layout: as it is, or copied by a step; constants are copied by `set`.
    Place in_layout(int tensor, const Layout &wanted) {
        for (const auto &place : tensors_[tensor].places)
            if (same(place.layout, wanted)) return place;
        const Place place{wanted, add_buffer(wanted, tensors_[tensor].is_constant)};
        if (!tensors_[tensor].is_constant) {
            const Place source = tensors_[tensor].places.at(0);
            add_step(describe_reorder(source.layout, wanted, attributes(nullptr).get()), {{from, source}, {to, place}});
        }
        tensors_[tensor].places.push_back(place);
        return place;
    }

    // The place that a step writes; buffer: of a tensor that it overwrites, or a new one.
    Place produce(int tensor, const Layout &layout, int buffer = -1) {
        const Place place{layout, buffer < 0 ? add_buffer(layout, false) : buffer};
        tensors_[tensor].places = {place};
        return place;
    }

    void add_step(dnnl_primitive_desc_t desc, std::vector<Bound> arguments) {
        const Layout scratch = copy_of(real.dnnl_primitive_desc_query_md(desc, scratchpad_md, 0));
        if (real.dnnl_memory_desc_get_size_v2(scratch.get(), 0))
            arguments.push_back({scratchpad, {scratch, add_buffer(scratch, false)}});
        for (const auto &argument : arguments) {
            Buffer &buffer = buffers_[argument.place.buffer];
            if (buffer.first < 0) buffer.first = int(steps_.size());
            buffer.last = int(steps_.size());
        }
        steps_.push_back({primitive_of(desc), std::move(arguments), {}});
    }

    void add_convolution(const Operation &o) {
        const int64_t *n = o.numbers, groups = n[8];
        const Dims strides{n[0], n[1]}, dilations{n[2] - 1, n[3] - 1}, left{n[4], n[5]}, right{n[6], n[7]};
        Tensor &weight = tensors_[o.second];
        if (groups > 1 && weight.dims.size() == 4) {
            weight.dims[0] /= groups;
            weight.dims.insert(weight.dims.begin(), groups);
        }
        const bool is_image = o.source == input_;
        const Layout bias_layout = o.bias < 0 ? nullptr : plain_of(tensors_[o.bias]);
        const Residual kind = o.residual < 0 ? Residual::none : o.may_overwrite ? Residual::sum : Residual::add;
        const Layout source = is_image ? layout(o.source) : any_layout(tensors_[o.source].dims);
        const Layout target = kind == Residual::sum ? layout(o.residual) : any_layout(tensors_[o.target].dims);
        dnnl_primitive_desc_t desc;
        check(real.dnnl_convolution_forward_primitive_desc_create(
                  &desc, engine_, forward_inference, direct, source.get(), any_layout(weight.dims).get(),
                  bias_layout.get(), target.get(), strides.data(), dilations.data(), left.data(), right.data(),
                  epilogue(o, kind).get()),
              "a convolution");
        std::vector<Bound> arguments{{onednn::source, in_layout(o.source, wanted(desc, onednn::source))},
                                         {weights, in_layout(o.second, wanted(desc, weights))}};
        if (bias_layout) arguments.push_back({onednn::bias, in_layout(o.bias, bias_layout)});
        if (kind == Residual::add) arguments.push_back({post_op | second_source, tensors_[o.residual].places.at(0)});
        const int reused = kind == Residual::sum ? tensors_[o.residual].places.at(0).buffer : -1;
        arguments.push_back({onednn::target, produce(o.target, wanted(desc, onednn::target), reused)});
        add_step(desc, std::move(arguments));
    }

    void add_pooling(const Operation &o) {
        const int64_t *n = o.numbers;
        const Dims kernel{n[0], n[1]}, strides{n[2], n[3]}, dilations{0, 0}, left{n[4], n[5]}, right{n[6], n[7]};
        dnnl_primitive_desc_t desc;
        check(more().dnnl_pooling_forward_primitive_desc_create(
                  &desc, engine_, forward_inference, o.algorithm, layout(o.source).get(),
                  any_layout(tensors_[o.target].dims).get(), strides.data(), kernel.data(), dilations.data(),
                  left.data(), right.data(), attributes(nullptr).get()),
              "a pooling");
        const Place source = tensors_[o.source].places[0];
        add_step(desc, {{onednn::source, source}, {target, produce(o.target, wanted(desc, target))}});
    }

    void add_binary(const Operation &o) {
        const Residual kind = o.residual < 0 ? Residual::none : Residual::add;
        const Place first = tensors_[o.source].places.at(0);
        const bool is_broadcast = tensors_[o.source].dims != tensors_[o.second].dims;
        const Place second = is_broadcast ? tensors_[o.second].places.at(0) : in_layout(o.second, first.layout);
        dnnl_primitive_desc_t desc;
        check(more().dnnl_binary_primitive_desc_create(&desc, engine_, o.algorithm, first.layout.get(),
                                                       second.layout.get(), first.layout.get(),
                                                       epilogue(o, kind).get()),
              "a sum or product");
        std::vector<Bound> arguments{{onednn::source, first}, {second_source, second}};
        if (kind == Residual::add) arguments.push_back({post_op | second_source, tensors_[o.residual].places.at(0)});
        arguments.push_back({target, produce(o.target, first.layout)});
        add_step(desc, std::move(arguments));
    }

    void add_elementwise(const Operation &o) {
        const Place source = tensors_[o.source].places.at(0);
        dnnl_primitive_desc_t desc;
        check(more().dnnl_eltwise_forward_primitive_desc_create(&desc, engine_, forward_inference, o.activation,
                                                                source.layout.get(), source.layout.get(), o.alpha,
                                                                o.beta, attributes(nullptr).get()),
              "an activation");
        add_step(desc, {{onednn::source, source}, {target, produce(o.target, source.layout)}});
    }

    // numbers[0]: the weights are (output, input).
    void add_dense(const Operation &o) {
        const Dims &dims = tensors_[o.second].dims;
        const Layout weight = o.numbers[0] ? plain({dims[1], dims[0]}, true) : plain(dims);
        const Place source = in_plain(o.source);
        const Layout bias_layout = o.bias < 0 ? nullptr : plain({1, tensors_[o.bias].dims[0]});
        const Layout result = plain_of(tensors_[o.target]);
        dnnl_primitive_desc_t desc;
        check(more().dnnl_matmul_primitive_desc_create(&desc, engine_, source.layout.get(), weight.get(),
                                                       bias_layout.get(), result.get(),
                                                       epilogue(o, Residual::none).get()),
              "a matrix product");
        // The constants' memory is plain; the product sees it with other axes.
        std::vector<Bound> arguments{{onednn::source, source}, {weights, {weight, in_plain(o.second).buffer}}};
        if (bias_layout) arguments.push_back({onednn::bias, {bias_layout, in_plain(o.bias).buffer}});
        arguments.push_back({target, produce(o.target, result)});
        add_step(desc, std::move(arguments));
    }

    // The same memory with other dimensions.
    void add_reshape(const Operation &o) {
        const Place source = in_plain(o.source);
        produce(o.target, plain_of(tensors_[o.target]), source.buffer);
    }

    void add_softmax(const Operation &o) {
        const Place source = in_plain(o.source);
        const int axis = int(tensors_[o.source].dims.size()) - 1;
        dnnl_primitive_desc_t desc;
        check(more().dnnl_softmax_forward_primitive_desc_create(&desc, engine_, forward_inference, accurate_softmax,
                                                                source.layout.get(), source.layout.get(), axis,
                                                                attributes(nullptr).get()),
              "a softmax");
        add_step(desc, {{onednn::source, source}, {target, produce(o.target, source.layout)}});
    }

    // numbers[0]: the axis.
    void add_concat(const Operation &o) {
        std::vector<const_dnnl_memory_desc_t> layouts;
        std::vector<Bound> arguments;
        for (int i = 0; i < o.count; i++) {
            const Place place = tensors_[o.sources[i]].places.at(0);
            layouts.push_back(place.layout.get());
            arguments.push_back({many_sources + i, place});
        }
        dnnl_primitive_desc_t desc;
        check(more().dnnl_concat_primitive_desc_create(&desc, engine_, nullptr, o.count, int(o.numbers[0]),
                                                       layouts.data(), attributes(nullptr).get()),
              "a concatenation");
        arguments.push_back({target, produce(o.target, wanted(desc, target))});
        add_step(desc, std::move(arguments));
    }

    char *at(const Place &place) const {
        const Buffer &buffer = buffers_[place.buffer];
        return buffer.memory ? buffer.memory.get() : arena_.get() + buffer.offset;
    }

    // Give each buffer, large ones first, the lowest gap among those that live at the same time; return the total
    // [bytes].
    size_t place_buffers() {
        std::vector<Buffer *> waiting, placed;
        for (auto &buffer : buffers_)
            if (!buffer.memory && buffer.first >= 0) waiting.push_back(&buffer);
        std::stable_sort(waiting.begin(), waiting.end(), [](auto a, auto b) { return a->bytes > b->bytes; });
        size_t total = 4096;
        for (Buffer *buffer : waiting) {
            std::sort(placed.begin(), placed.end(), [](auto a, auto b) { return a->offset < b->offset; });
            for (const Buffer *other : placed) {
                if (other->first > buffer->last || buffer->first > other->last) continue;
                if (buffer->offset + buffer->bytes <= other->offset) break;
                buffer->offset = std::max(buffer->offset, other->offset + other->bytes);
            }
            total = std::max(total, buffer->offset + buffer->bytes);
            placed.push_back(buffer);
        }
        return total;
    }

    dnnl_engine_t engine_;
    dnnl_stream_t stream_;
    std::vector<Tensor> tensors_;
    std::vector<Buffer> buffers_;
    std::vector<Step> steps_;
    std::vector<float> scale_, shift_;
    int input_ = -1;
    Place output_;
    size_t output_bytes_ = 0;
    Memory arena_;
};

// Call a function; return why it failed, or nullptr.  The text lives until the thread's next failure.
template <class Body>
const char *reason(const Body &body) {
    static thread_local std::string text;
    try {
        body();
        return nullptr;
    } catch (const std::exception &error) {
        text = error.what();
        return text.c_str();
    }
}

}  // namespace
}  // namespace rp2k

using rp2k::Network;
using rp2k::reason;

EXPORT const char *rp2k_native_network_new(Network **network) {
    return reason([&] { *network = new Network; });
}

EXPORT void rp2k_native_network_delete(Network *network) { delete network; }

EXPORT int rp2k_native_network_tensor(Network *network, int count, const int64_t *dims, int is_constant) {
    return network->add_tensor({dims, dims + count}, is_constant);
}

EXPORT const char *rp2k_native_network_input(Network *network, int tensor, const float *scale, const float *shift) {
    return reason([&] { network->add_input(tensor, scale, shift); });
}

EXPORT const char *rp2k_native_network_add(Network *network, const rp2k::Operation *operation) {
    return reason([&] { network->add(*operation); });
}

EXPORT const char *rp2k_native_network_finish(Network *network, int output) {
    return reason([&] { network->finish(output); });
}

EXPORT const char *rp2k_native_network_set(Network *network, int tensor, const float *data) {
    return reason([&] { network->set(tensor, data); });
}

EXPORT const char *rp2k_native_network_run(Network *network, const uint8_t *images, float *output) {
    return reason([&] { network->run(images, output); });
}

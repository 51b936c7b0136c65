#include "scratch.h"

#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "fork.h"

namespace rp2k {
namespace {

constexpr size_t HUGE_PAGE = size_t(2) << 20;

struct Buffer {
    char *data;
    size_t bytes;
};

std::mutex guard;

// As many as there were executions at once; never freed, since the threads may run when the process ends.
std::vector<Buffer> &idle() {
    static auto *buffers = new std::vector<Buffer>;
    return *buffers;
}

Buffer allocate(size_t bytes) {
    bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    auto *data = static_cast<char *>(std::aligned_alloc(HUGE_PAGE, bytes));
    if (data) madvise(data, bytes, MADV_HUGEPAGE);
    return {data, data ? bytes : 0};
}

}  // namespace

void Scratch::start() { hold_during_fork(guard); }

Scratch::Scratch(size_t bytes) {
    Buffer buffer{nullptr, 0};
    {
        std::lock_guard<std::mutex> lock(guard);
        if (!idle().empty()) {
            buffer = idle().back();
            idle().pop_back();
        }
    }
    if (buffer.bytes < bytes) {
        std::free(buffer.data);
        buffer = allocate(bytes);
    }
    data_ = buffer.data;
    bytes_ = buffer.bytes;
}

Scratch::~Scratch() {
    if (!data_) return;
    std::lock_guard<std::mutex> lock(guard);
    idle().push_back({data_, bytes_});
}

}  // namespace rp2k

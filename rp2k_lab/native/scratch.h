// Memory for the length of one execution.
#pragma once

#include <cstddef>

namespace rp2k {

class Scratch {
  public:
    // Call it once, before any other use.
    static void start();

    // `bytes` of memory, from an earlier execution if there is enough; `data()` is null if the machine has none.
    explicit Scratch(size_t bytes);
    ~Scratch();
    Scratch(const Scratch &) = delete;
    char *data() const { return data_; }

  private:
    char *data_;
    size_t bytes_;
};

}  // namespace rp2k

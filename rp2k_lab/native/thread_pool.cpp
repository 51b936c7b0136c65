#include "thread_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

#include "fork.h"

namespace rp2k {
namespace {

using Body = std::function<void(int, int)>;
using Clock = std::chrono::steady_clock;

// A thread without work looks for more for so long before it sleeps.  The next operator of a network usually follows
// within 20 µs; waking a thread takes about as long.
constexpr auto SPIN = std::chrono::microseconds(60);
constexpr int MOST_TASKS = 0xFFFF;

thread_local bool inside = false;

// The state of a round in one word, so that a thread claims a task of the round that it has seen and of no other one.
struct Ticket {
    uint32_t round;
    uint16_t tasks, next;

    static Ticket of(uint64_t word) {
        return {uint32_t(word >> 32), uint16_t(word >> 16), uint16_t(word)};
    }
    uint64_t word() const { return uint64_t(round) << 32 | uint64_t(tasks) << 16 | next; }
    bool open() const { return next < tasks; }
};

class Pool {
  public:
    explicit Pool(int threads) {
        // Detached, and the pool is never deleted: the threads may sleep when the process ends.
        for (int i = 1; i < threads; i++) std::thread([this] { work(); }).detach();
    }

    // Run a round; false if another thread is in one.
    bool run(int tasks, const Body &body) {
        std::unique_lock<std::mutex> one(entry_, std::try_to_lock);
        if (!one) return false;
        body_ = &body;
        control_ = _mm_getcsr();
        failure_ = nullptr;
        done_.store(0, std::memory_order_relaxed);
        const uint32_t round = Ticket::of(ticket_.load(std::memory_order_relaxed)).round + 1;
        ticket_.store(Ticket{round, uint16_t(tasks), 0}.word());
        if (sleeping_.load()) {
            std::lock_guard<std::mutex> lock(sleep_);
            wake_.notify_all();
        }
        while (claim_and_run()) {
        }
        for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; spins++) {
            if (spins < 1000) _mm_pause();
            else sched_yield();
        }
        if (failure_) std::rethrow_exception(failure_);
        return true;
    }

  private:
    bool claim_and_run() {
        uint64_t word = ticket_.load(std::memory_order_acquire);
        for (;;) {
            Ticket ticket = Ticket::of(word);
            if (!ticket.open()) return false;
            const int task = ticket.next++;
            if (!ticket_.compare_exchange_weak(word, ticket.word(), std::memory_order_acq_rel)) continue;
            // From here on the round cannot end, so its members are those of this task.
            inside = true;
            _mm_setcsr(control_);  // as the caller: flush denormal numbers to zero or not
            try {
                (*body_)(task, ticket.tasks);
            } catch (...) {
                std::lock_guard<std::mutex> lock(failing_);
                failure_ = std::current_exception();
            }
            inside = false;
            done_.fetch_add(1, std::memory_order_acq_rel);
            return true;
        }
    }

    [[noreturn]] void work() {
        pthread_setname_np(pthread_self(), "rp2k-native");
        for (;;) {
            for (auto last = Clock::now(); Clock::now() - last < SPIN;) {
                if (claim_and_run()) last = Clock::now();
                else for (int i = 0; i < 16; i++) _mm_pause();
            }
            std::unique_lock<std::mutex> lock(sleep_);
            sleeping_.fetch_add(1);
            wake_.wait(lock, [this] { return Ticket::of(ticket_.load()).open(); });
            sleeping_.fetch_sub(1);
        }
    }

    std::mutex entry_, sleep_, failing_;
    std::condition_variable wake_;
    std::atomic<uint64_t> ticket_{0};
    std::atomic<int> done_{0}, sleeping_{0};
    const Body *body_ = nullptr;
    unsigned control_ = 0;
    std::exception_ptr failure_;
};

int thread_count = 1;
std::atomic<Pool *> pool{nullptr};
std::mutex starting;

Pool *started_pool() {
    Pool *found = pool.load(std::memory_order_acquire);
    if (found) return found;
    std::lock_guard<std::mutex> lock(starting);
    if (!(found = pool.load())) pool.store(found = new Pool(thread_count), std::memory_order_release);
    return found;
}

// A child of fork has no threads: it makes a new pool.
void forget_pool() { pool.store(nullptr); }

}  // namespace

void set_threads(int threads) {
    thread_count = threads > 1 ? threads : 1;
    hold_during_fork(starting);
    pthread_atfork(nullptr, nullptr, forget_pool);
}

int threads() { return thread_count; }

bool in_parallel() { return inside; }

void parallel_for(int tasks, const Body &body) {
    const bool shared = tasks > 1 && tasks <= MOST_TASKS && thread_count > 1 && !inside;
    if (shared && started_pool()->run(tasks, body)) return;
    for (int task = 0; task < tasks; task++) body(task, tasks);
}

}  // namespace rp2k

// MindSpore 2.10's pools.  Their threads spin in `sched_yield` beside the kernels, and take a part of a core: MindSpore's
// kernels run on this pool.  The functions are virtual, and the tables of their classes find these first.
using MindSporeBody = std::function<int(void *, int, float, float)>;

extern "C" {
__attribute__((visibility("default"))) int rp2k_launch(void *, const MindSporeBody &, void *, int) __asm__(
    "_ZN9mindspore10ThreadPool14ParallelLaunchERKSt8functionIFiPviffEES2_i");
__attribute__((visibility("default"), alias("_ZN9mindspore10ThreadPool14ParallelLaunchERKSt8functionIFiPviffEES2_i")))
int rp2k_launch_of_parallel_pool(void *, const MindSporeBody &, void *, int) __asm__(
    "_ZN9mindspore18ParallelThreadPool14ParallelLaunchERKSt8functionIFiPviffEES2_i");
}

int rp2k_launch(void *, const MindSporeBody &body, void *content, int tasks) {
    std::atomic<int> status{0};
    rp2k::parallel_for(tasks, [&](int task, int) {
        if (int error = body(content, task, 0.0f, 1.0f)) status.store(error);
    });
    return status.load();
}

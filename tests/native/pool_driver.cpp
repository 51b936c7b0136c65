// Use the pool of threads and the scratch memory as hard as no network does: `pool_driver THREADS SCENARIO`.
// Exit code 0: all was right.
#include "../../rp2k_lab/native/scratch.h"
#include "../../rp2k_lab/native/thread_pool.h"

#include <immintrin.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace mindspore {
// As in MindSpore 2.10; the library has functions of these names.
using Func = std::function<int(void *content, int task, float lhs_scale, float rhs_scale)>;
struct ThreadPool {
    int ParallelLaunch(const Func &, void *content, int tasks);
};
struct ParallelThreadPool {
    int ParallelLaunch(const Func &, void *content, int tasks);
};
}  // namespace mindspore

namespace {

using namespace std::chrono_literals;

void check(bool right, const char *what) {
    if (right) return;
    std::fprintf(stderr, "wrong: %s\n", what);
    std::_Exit(1);
}

// Run a round of tasks and check that each ran once.
void round_of(int tasks) {
    std::unique_ptr<std::atomic<int>[]> runs(new std::atomic<int>[tasks]());
    rp2k::parallel_for(tasks, [&](int task, int all) {
        check(all == tasks, "the number of tasks");
        runs[task]++;
    });
    for (int task = 0; task < tasks; task++) check(runs[task] == 1, "a task that did not run once");
}

// Tiny rounds one after the other; between some, pauses about as long as a thread waits before it sleeps.
void many_rounds() {
    std::mt19937 random(1);
    for (int i = 0; i < 100000; i++) {
        round_of(1 + random() % 7);
        if (random() % 20 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 150));
    }
}

void counts_of_tasks() {
    for (int tasks : {0, 1, 2, 100, 65535, 65536, 200000}) round_of(tasks);
}

// Run a task on each thread, after they have waited for each other; they end only if as many threads run them.
void on_all_threads(void (*task)()) {
    std::atomic<int> arrived{0};
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    rp2k::parallel_for(rp2k::threads(), [&](int, int all) {
        arrived++;
        while (arrived < all) {
            check(std::chrono::steady_clock::now() < deadline, "tasks that do not run at the same time");
            std::this_thread::yield();
        }
        task();
    });
}

void at_once() { on_all_threads([] {}); }

void nested() {
    check(!rp2k::in_parallel(), "outside of a task");
    std::atomic<int> runs{0};
    rp2k::parallel_for(9, [&](int, int) {
        check(rp2k::in_parallel() || rp2k::threads() == 1, "inside of a task");
        const auto caller = std::this_thread::get_id();
        rp2k::parallel_for(5, [&](int, int) {
            check(std::this_thread::get_id() == caller || rp2k::threads() == 1, "an inner task on another thread");
            runs++;
        });
    });
    check(runs == 45, "the inner tasks");
    check(!rp2k::in_parallel(), "after the tasks");
}

// Callers on many threads at once, some with inner rounds.
void many_callers() {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 8; caller++) {
        callers.emplace_back([caller] {
            for (int i = 0; i < 3000; i++) {
                if (i % 3) round_of(1 + (caller + i) % 9);
                else rp2k::parallel_for(3, [](int, int) { round_of(2); });
            }
        });
    }
    for (auto &caller : callers) caller.join();
}

// An exception of any task arrives, the other tasks have run, and the pool can be used again.
void exceptions() {
    for (int i = 0; i < 2000; i++) {
        const int tasks = 2 + i % 6, bad = i % tasks;
        std::atomic<int> runs{0};
        std::string caught;
        try {
            rp2k::parallel_for(tasks, [&](int task, int) {
                runs++;
                if (task == bad) throw std::runtime_error("task " + std::to_string(task));
            });
        } catch (const std::runtime_error &error) {
            caught = error.what();
        }
        check(caught == "task " + std::to_string(bad), "the exception");
        check(runs == tasks || rp2k::threads() == 1, "tasks beside one that throws");
        check(!rp2k::in_parallel(), "after an exception");
        round_of(tasks);
    }
}

// Fork while two other threads call `use` again and again; each child calls `use_in_child`.
void fork_during(void (*use)(), void (*use_in_child)()) {
    std::atomic<bool> stop{false};
    std::atomic<int> started{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 2; i++) {
        callers.emplace_back([&] {
            use();
            started++;
            while (!stop) use();
        });
    }
    // No thread may be in the allocator at a fork: that of the address sanitizer stays locked in the child.
    while (started < 2) std::this_thread::yield();
    for (int i = 0; i < 200; i++) {
        const pid_t child = fork();
        if (!child) {
            alarm(60);
            use_in_child();
            _exit(0);
        }
        int status = -1;
        waitpid(child, &status, 0);
        check(status == 0, "a child");
        round_of(3);
    }
    stop = true;
    for (auto &caller : callers) caller.join();
}

// Children of a process whose threads are in the midst of rounds start threads of their own.
void forks() {
    auto child = [] {
        for (int k = 0; k < 20; k++) round_of(5);
        at_once();
    };
    fork_during([] { rp2k::parallel_for(4, [](int, int) {}); }, child);
}

void forks_beside_scratch() {
    auto use = [] {
        rp2k::Scratch scratch(1000);
        check(scratch.data(), "scratch memory");
    };
    fork_during(use, use);
}

bool is_flushed() {
    volatile float small = 1e-30f;
    return small * 1e-10f == 0;
}

// Tasks treat denormal numbers as their caller does.
void denormals() {
    for (int i = 0; i < 100; i++) {
        _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
        on_all_threads([] { check(is_flushed(), "denormal numbers that stay"); });
        _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_OFF);
        on_all_threads([] { check(!is_flushed(), "denormal numbers that are flushed"); });
    }
}

// MindSpore's kernels: the status of a task that fails is the launch's.
template <class Pool>
void launch() {
    std::atomic<int> runs{0};
    auto body = [](void *content, int task, float, float) {
        ++*static_cast<std::atomic<int> *>(content);
        return task == 3 ? 7 : 0;
    };
    check(Pool().ParallelLaunch(body, &runs, 3) == 0, "the status of tasks that all work");
    check(Pool().ParallelLaunch(body, &runs, 5) == 7, "the status of a task that fails");
    check(runs == 8, "the tasks of a launch");
}

void launches() {
    launch<mindspore::ThreadPool>();
    launch<mindspore::ParallelThreadPool>();
}

constexpr struct {
    const char *name;
    void (*run)();
} SCENARIOS[] = {
    {"many_rounds", many_rounds},
    {"counts_of_tasks", counts_of_tasks},
    {"at_once", at_once},
    {"nested", nested},
    {"many_callers", many_callers},
    {"exceptions", exceptions},
    {"denormals", denormals},
    {"launches", launches},
    {"forks", forks},
    {"forks_beside_scratch", forks_beside_scratch},
};

}  // namespace

int main(int count, char **arguments) {
    check(count == 3, "the arguments");
    rp2k::set_threads(std::atoi(arguments[1]));
    rp2k::Scratch::start();
    for (const auto &scenario : SCENARIOS) {
        if (std::strcmp(scenario.name, arguments[2])) continue;
        scenario.run();
        return 0;
    }
    check(false, "the scenario");
}

// A network behind specc.h as a C++17 class: closes itself, throws where something is wrong, shares its weights.
//
//     auto weights = std::make_shared<const specc::Weights>("digits/weights.bin");
//     specc::Network network(weights);                            // one for each thread that computes
//     std::vector<float> scores = network.run(image);
#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "specc.h"

namespace specc {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file of packed weights, mapped: all networks of this process and of others read the same pages.
class Weights {
 public:
  explicit Weights(const std::string &path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about {};
    if (file < 0 || ::fstat(file, &about) != 0) fail(file, path);
    size_ = static_cast<std::uint64_t>(about.st_size);
    void *memory = size_ ? ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
    if (memory == MAP_FAILED) fail(file, path);
    ::close(file);
    data_ = memory;
  }
  ~Weights() {
    if (data_) ::munmap(data_, size_);
  }
  Weights(const Weights &) = delete;
  Weights &operator=(const Weights &) = delete;

  const void *data() const { return data_; }
  std::uint64_t size() const { return size_; }

 private:
  [[noreturn]] static void fail(int file, const std::string &path) {
    const std::error_code reason(errno, std::generic_category());
    if (file >= 0) ::close(file);
    throw std::system_error(reason, path);
  }

  void *data_ = nullptr;
  std::uint64_t size_ = 0;
};

// A network on its weights. It is used by one thread at a time; several of them compute side by side.
class Network {
 public:
  explicit Network(std::shared_ptr<const Weights> weights, int threads = 1) : weights_(std::move(weights)) {
    specc_model *model = nullptr;
    check(specc_open(weights_->data(), weights_->size(), &model));
    model_.reset(model);
    check(specc_set_threads(model, threads));
  }

  static const specc_interface &about() { return *specc_describe(); }
  // At the first size, where there are several: the one that a model begins with.
  static const specc_tensor &input(int number) { return about().sizes[0].inputs[number]; }
  static const specc_tensor &output(int number) { return about().sizes[0].outputs[number]; }

  // The general form: dense, row-major arrays as input() and output() describe them, in their order.
  void run(const std::vector<const void *> &inputs, const std::vector<void *> &outputs) {
    if (inputs.size() != static_cast<std::size_t>(about().input_count) ||
        outputs.size() != static_cast<std::size_t>(about().output_count))
      throw Error("the network takes " + std::to_string(about().input_count) + " inputs and gives " +
                  std::to_string(about().output_count) + " outputs");
    check(specc_run(model_.get(), inputs.data(), outputs.data()));
  }

  // For networks from one float32 array to another.
  std::vector<float> run(const std::vector<float> &given) {
    const specc_tensor &in = input(0), &out = output(0);
    if (std::string("float32") != in.dtype || std::string("float32") != out.dtype)
      throw Error(std::string("the network goes from ") + in.dtype + " to " + out.dtype);
    if (given.size() * sizeof(float) != in.bytes)
      throw Error("`" + std::string(in.name) + "` has " + std::to_string(in.bytes / sizeof(float)) +
                  " elements, and is given " + std::to_string(given.size()));
    std::vector<float> result(out.bytes / sizeof(float));
    run({given.data()}, {result.data()});
    return result;
  }

 private:
  static void check(int problem) {
    if (problem != SPECC_OK) throw Error(specc_message(problem));
  }

  struct Close {
    void operator()(specc_model *model) const { specc_close(model); }
  };

  std::shared_ptr<const Weights> weights_;  // outlives the model, which reads it
  std::unique_ptr<specc_model, Close> model_;
};

}  // namespace specc

// A view of something callable, for parameters that are called before the function returns. Unlike
// std::function it never allocates.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace d2q {

template <typename Signature>
class FunctionRef;

/// Must not outlive what it was made of.
template <typename Result, typename... Args>
class FunctionRef<Result(Args...)> {
 public:
  template <typename Callable>
  requires(!std::is_same_v<std::remove_cvref_t<Callable>, FunctionRef> &&
           std::is_invocable_r_v<Result, const Callable&, Args...>)
      FunctionRef(const Callable& callable)  // NOLINT(google-explicit-constructor): as a parameter
      : callable_(std::addressof(callable)), call_([](const void* object, Args... args) -> Result {
          return (*static_cast<const Callable*>(object))(std::forward<Args>(args)...);
        }) {}

  Result operator()(Args... args) const { return call_(callable_, std::forward<Args>(args)...); }

 private:
  const void* callable_;
  Result (*call_)(const void*, Args...);
};

}  // namespace d2q
